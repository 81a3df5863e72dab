"""What heads answer: planted heads are right, even ones as good as chance, and words of several tokens are pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import Planted, uniform
from word_tokenizer import WHOLE

from attention_guidance.analysis.tokens import words_of_tokens
from attention_guidance.commands.annotations.words import join_words
from attention_guidance.commands.probes.answers import _batches, answer
from attention_guidance.commands.probes.questions import Question, QuestionedText
from attention_guidance.errors import ConfigError, CorpusError


def text(words, *questions, source=""):
    return QuestionedText(*join_words(words), questions, source)


def looking(pairs, length=12):
    """Scores of a head in which token i looks at token j, for some pairs."""
    scores = torch.zeros(length, length)
    for i, j in pairs:
        scores[i, j] = 60
    return scores


def test_a_planted_head_is_right_and_an_even_one_as_good_as_chance(model, tokenizer):
    # [CLS] the king saw him [SEP]: `him` is token 4 and looks at `king`, token 2.
    asked = text(["the", "king", "saw", "him"], Question(3, frozenset([1])))
    with Planted(model, 1, 0, looking([(4, 2)])):
        answers = answer(model, tokenizer, [asked], directions=["forward"])
    assert answers.right.shape == (1, 2, 2, 1)
    assert answers.right[0, 1, 0, 0] == 1
    np.testing.assert_allclose(answers.right[0, 0], 1 / 3)
    assert answers.right_by_chance.tolist() == pytest.approx([1 / 3])
    assert answers.right_by_offset[0, answers.offsets.index(-2)] == 1
    assert answers.right_by_offset.sum() == 1


def test_backward_is_the_other_way_round(model, tokenizer):
    asked = text(["the", "king", "saw", "him"], Question(3, frozenset([1])))
    with Planted(model, 0, 1, looking([(2, 4)])):
        answers = answer(model, tokenizer, [asked])
    assert answers.directions == ("forward", "backward")
    assert answers.right[0, 0, 1].tolist() == pytest.approx([1 / 3, 1])


def test_to_a_word_is_the_sum_over_its_tokens_and_from_it_the_mean(model, tokenizer):
    # [CLS] the k i t saw him [SEP]: three tokens of `kit` with 0.2 each win over 0.35 on `saw`.
    row = torch.full((8,), 1e-9)
    row[[2, 3, 4]], row[5] = 0.2, 0.35
    scores = torch.zeros(8, 8)
    scores[6] = row.log()
    words = ["the", "kit", "saw", "him"]
    with Planted(model, 0, 0, scores):
        to = answer(model, tokenizer, [text(words, Question(3, frozenset([1])))], directions=["forward"])
    assert to.right[0, 0, 0, 0] == 1
    # From `kit`: two of its tokens look at `him` with 0.4, the third at `saw` with 0.7; the mean prefers `him`.
    scores = torch.full((8, 8), 1e-9)
    scores[2, 6] = scores[3, 6] = 0.4
    scores[2, 0] = scores[3, 0] = 0.6
    scores[4, 5], scores[4, 0] = 0.7, 0.3
    with Planted(model, 0, 0, scores.log()):
        of = answer(model, tokenizer, [text(words, Question(1, frozenset([3])))], directions=["forward"])
    assert of.right[0, 0, 0, 0] == 1


def test_many_tokens_of_a_word_do_not_look_more_at_another(model, tokenizer):
    # [CLS] the k i t saw him [SEP]: three tokens of `kit` look at `him` with 0.3 each, `the` does with 0.5.
    scores = torch.full((8, 8), 1e-9)
    scores[1, 6], scores[1, 0] = 0.5, 0.5
    scores[2:5, 6], scores[2:5, 0] = 0.3, 0.7
    asked = text(["the", "kit", "saw", "him"], Question(3, frozenset([0])))
    with Planted(model, 0, 0, scores.log()):
        answers = answer(model, tokenizer, [asked], directions=["backward"])
    assert answers.right[0, 0, 0, 0] == 1


def test_special_tokens_and_the_word_itself_are_no_answer(model, tokenizer):
    # `him` looks at [CLS] and itself most, then at `king`.
    row = torch.tensor([0.5, 0.01, 0.1, 0.02, 0.36, 0.01])
    scores = torch.zeros(6, 6)
    scores[4] = row.log()
    asked = text(["the", "king", "saw", "him"], Question(3, frozenset([1])))
    with Planted(model, 0, 0, scores):
        words = answer(model, tokenizer, [asked], directions=["forward"])
        tokens = answer(model, tokenizer, [asked], directions=["forward"], protocol="authors")
    assert words.right[0, 0, 0, 0] == 1
    assert tokens.right[0, 0, 0, 0] == 0
    assert tokens.right_by_chance.tolist() == pytest.approx([1 / 6])


def test_only_the_words_among_are_candidates(model, tokenizer):
    asked = text(["the", "king", "saw", "him"], Question(3, frozenset([0]), candidates=(0, 2)))
    with Planted(model, 0, 0, looking([(4, 2)])):
        answers = answer(model, tokenizer, [asked], directions=["forward"])
    # `king` is not among them; the two that are share what is left.
    assert answers.right[0, 0, 0, 0] == pytest.approx(0.5)
    assert answers.right_by_chance.tolist() == [0.5]


def test_ties_count_as_far_as_they_are_right(model, tokenizer):
    asked = text(["the", "king", "saw", "him"], Question(3, frozenset([0, 1])))
    answers = answer(model, tokenizer, [asked], directions=["forward"])
    np.testing.assert_allclose(answers.right, 2 / 3)


def test_batches_and_padding_change_nothing(model, tokenizer):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(9):
        words = [str(w) for w in rng.choice([*WHOLE, "kit", "ox"], size=rng.integers(3, 8))]
        asked = [Question(int(rng.integers(len(words))), frozenset([0, 2]), label=str(n)) for n in range(2)]
        texts.append(text(words, *asked))
    random = uniform(vocab_size=80, num_attention_heads=2)
    with torch.no_grad():
        for layer in random.encoder.layer:
            layer.attention.self.query.weight.normal_(0, 1)
            layer.attention.self.key.weight.normal_(0, 1)
    alone = answer(random, tokenizer, texts, batch_size=1)
    together = answer(random, tokenizer, texts, batch_size=5)
    np.testing.assert_array_equal(alone.right, together.right)
    assert alone.labels == together.labels == ("0", "1") * 9
    assert alone.texts.tolist() == [n // 2 for n in range(18)]


def test_batches_of_long_texts_hold_fewer_of_them():
    """No more memory for maps than 512 tokens take; shorter texts are as many as asked for."""
    assert list(_batches([512, 1024, 300, 9000, 1025, 1024], 5)) == [[2, 0], [1], [5], [4], [3]]
    assert list(_batches([512] * 5, 4)) == [[0, 1, 2, 3], [4]]
    assert list(_batches([1024] * 5, 8)) == [[0, 1], [2, 3], [4]]


def test_rules_are_scored(model, tokenizer):
    question = Question(3, frozenset([1]), guesses=(("nearest", 2), ("first", 1), ("silent", None)))
    answers = answer(model, tokenizer, [text(["the", "king", "saw", "him"], question)])
    assert {rule: right.tolist() for rule, right in answers.right_by_rule.items()} == {
        "nearest": [0], "first": [1], "silent": [0],
    }  # fmt: skip


def test_texts_that_cannot_be_asked_are_counted(model, tokenizer):
    question = Question(0, frozenset([1]))
    fine = text(["the", "king"], question)
    texts = [
        fine, text(["the"]), text(["the", "kingkingking"] * 8, question),
        QuestionedText("the   king", ((0, 3), (4, 5), (6, 10)), (question,)),
        text(["the", "kingkingking"] * 40_000, question),
    ]  # fmt: skip
    answers = answer(model, tokenizer, texts, longest=20)
    assert (answers.n_texts, len(answers.labels)) == (1, 1)
    assert answers.skipped == {
        "without a question": 1, "longer than 20 tokens": 1, "with a word that has no token of its own": 1,
        "longer than 524,288 characters": 1,
    }  # fmt: skip
    assert answer(model, tokenizer, [fine], longest=4).n_texts == 1  # two words between two special tokens
    authors = answer(model, tokenizer, [fine, text(["the", "kit"], question)], protocol="authors")
    assert authors.skipped == {"with a word of several tokens": 1}
    with pytest.raises(CorpusError, match=r"no question is left to ask: 1 without a question"):
        answer(model, tokenizer, [text(["the"])])
    with pytest.raises(CorpusError, match="there is no text"):
        answer(model, tokenizer, [])


def test_a_token_belongs_to_the_word_of_its_last_character():
    # "the king, he": tokens that begin with a space, one of punctuation that is no word, special ones around.
    offsets = [(0, 0), (0, 3), (3, 6), (6, 8), (8, 9), (9, 12), (0, 0)]
    words = [(0, 3), (4, 8), (10, 12)]
    assert words_of_tokens(offsets, words).tolist() == [-1, 0, 1, 1, -1, 2, -1]


def test_unknown_settings(model, tokenizer):
    for setting in ({"protocol": "author"}, {"directions": ["up"]}):
        with pytest.raises(ConfigError, match="expected one of"):
            answer(model, tokenizer, [], **setting)


def test_the_authors_protocol_is_their_script(tokenizer):
    """Sentence by sentence as their script: argmax of the reflexive's row of the eager map, indices plus one."""
    torch.manual_seed(1)
    model = uniform(vocab_size=80, num_attention_heads=2)
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight.normal_(0, 1)
            layer.attention.self.key.weight.normal_(0, 1)
    rng = np.random.default_rng(3)
    lines = []
    for _ in range(60):
        words = [str(w) for w in rng.choice([*WHOLE, "ox"], size=6, p=[0.24, 0.24, 0.24, 0.24, 0.04])]
        lines.append((words, 5, (int(rng.integers(0, 2)), 2)))
    model.set_attn_implementation("eager")
    scores, kept = np.zeros((2, 2)), 0
    for words, reflexive, antecedent in lines:
        ids = tokenizer(" ".join(words), return_tensors="pt")["input_ids"]
        if ids.shape[1] != len(words) + 2:
            continue
        kept += 1
        with torch.no_grad():
            maps = model(ids, output_attentions=True).attentions
        for layer in range(2):
            for head in range(2):
                best = maps[layer][0, head, reflexive + 1].argmax().item()
                scores[layer, head] += best in [word + 1 for word in antecedent]
    model.set_attn_implementation("sdpa")
    texts = [text(words, Question(reflexive, frozenset(antecedent))) for words, reflexive, antecedent in lines]
    answers = answer(model, tokenizer, texts, protocol="authors", directions=["forward"])
    assert 0 < kept < 60
    assert answers.n_texts == kept
    np.testing.assert_allclose(answers.right.mean(0)[..., 0], scores / kept, atol=1e-6)
