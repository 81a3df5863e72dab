"""Labels of words: windows of long sentences, and scores against gold counted independently."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, PreTrainedTokenizerFast

from attention_guidance.commands.annotations.tagged import read_tagged
from attention_guidance.commands.finetuning.decoding import decode, no_transitions
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.encoding import IGNORED, encode, scores_of
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import try_out
from attention_guidance.commands.finetuning.scoring.scores import evaluate, per_class
from attention_guidance.errors import ConfigError

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def tokenizer(whole_run):
    return AutoTokenizer.from_pretrained(whole_run / "model")


def sentences(seed, n, longest):
    chance = random.Random(seed)
    made = []
    for number in range(n):
        length = chance.randint(1, longest)
        words = tuple("".join(chance.choices("abcdefgh", k=chance.randint(1, 6))) for _ in range(length))
        made.append(Example(words, tuple(chance.randrange(5) for _ in words), f"made:{number}"))
    return made


def data(examples):
    return Data(get_task("ner"), LABELS, {"dev": examples}, {}, (), "BIO")


def best_labels(data, encoded, examples, outputs):
    """The best label of each word, well-formed or not."""
    return decode(data, scores_of(data, encoded, examples, outputs), no_transitions(data.labels))


def outputs_that_say(encoded, say):
    """Logits of each window: `say(example, word)` for the first token of each word, else noise."""
    for number, places, item in zip(encoded.example, encoded.places, encoded.inputs, strict=True):
        logits = np.random.default_rng(0).normal(size=(len(item["input_ids"]), 5))
        for place in places:
            logits[place.token] = -9
            logits[place.token, say(number, place)] = 9
        yield logits


def test_no_word_of_a_long_sentence_is_lost(tokenizer):
    examples = sentences(1, 20, 60)
    encoded = encode(data(examples), examples, tokenizer, 24)
    assert encoded.n_windowed > 5
    assert max(len(item["input_ids"]) for item in encoded.inputs) == 24
    for number, example in enumerate(examples):
        windows = [places for n, places in zip(encoded.example, encoded.places, strict=True) if n == number]
        seen = {place.word for places in windows for place in places}
        assert seen == set(range(len(example.texts)))
    outputs = list(outputs_that_say(encoded, lambda number, place: examples[number].label[place.word]))
    assert best_labels(data(examples), encoded, examples, outputs) == [example.label for example in examples]
    assert evaluate(data(examples), examples, [example.label for example in examples])["f1"] == 1


def test_a_word_is_read_where_it_is_farthest_from_a_cut(tokenizer):
    example = Example(("ab",) * 40, (0,) * 40, "")
    encoded = encode(data([example]), [example], tokenizer, 24)
    windows = list(range(len(encoded.inputs)))
    assert len(windows) > 2
    room: dict[int, list[tuple[int, int]]] = {}
    for window, places in enumerate(encoded.places):
        n_tokens = len(encoded.inputs[window]["input_ids"]) - 2
        for place in places:
            at = place.token - 1
            # The first window is cut only on its right, the last only on its left.
            ends = [at] * (window > 0) + [n_tokens - 1 - at] * (window < windows[-1])
            room.setdefault(place.word, []).append((min(ends), window))
    expected = {word: max(found, key=lambda pair: pair[0]) for word, found in room.items()}
    assert min(distance for distance, _ in expected.values()) >= 4
    # Every word of a window is predicted as the window's index.
    outputs = [np.eye(5)[[window % 5] * len(encoded.inputs[window]["input_ids"])] for window in windows]
    (found,) = best_labels(data([example]), encoded, [example], outputs)
    assert found == tuple(expected[word][1] % 5 for word in range(40))


@pytest.mark.parametrize("scheme", ["BIO", None])
def test_the_tokens_of_a_word_continue_its_label(tokenizer, scheme):
    """Only the first token has B-; if labels are not entities, all tokens have the word's label."""
    example = Example(("abc", "d", "efgh", "ijklmn"), (1, 0, 3, 4), "")
    encoded = encode(replace(data([example]), scheme=scheme), [example], tokenizer, 32)
    labels, places = encoded.inputs[0]["labels"], encoded.places[0]
    assert [labels[place.token] for place in places] == [1, 0, 3, 4]
    ends = [*(place.token for place in places[1:]), len(labels) - 1]
    rest = [set(labels[place.token + 1 : end]) for place, end in zip(places, ends, strict=True)]
    assert rest == ([{2}, set(), {4}, {4}] if scheme else [{1}, set(), {3}, {4}])
    assert labels[0] == labels[-1] == IGNORED


def test_a_model_is_given_what_its_tokenizer_makes(tokenizer):
    """Token types of special tokens and of words, as in XLNet's tokenizer."""
    other = copy.deepcopy(tokenizer)
    other.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A:1 </s>:1 <s>:2", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    example = Example(("abc", "d"), (1, 0), "")
    encoded = encode(data([example]), [example], other, 32)
    expected = other("abc d", return_attention_mask=False)
    assert len(set(expected["token_type_ids"])) == 2
    assert encoded.inputs[0].keys() - {"labels"} == expected.keys()
    assert all(encoded.inputs[0][name] == values for name, values in expected.items())


@pytest.mark.parametrize("unknown", [None, "<s>"])
def test_special_tokens_stand_where_the_tokenizer_puts_them_whatever_its_alphabet(unknown):
    """A tokenizer without any of our letters, which drops them or maps them to the token that begins a text."""
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "ወደ": 2}, unknown) if unknown else models.BPE(
        {"<s>": 0, "</s>": 1, "ወ": 2, "ደ": 3, "ወደ": 4}, [("ወ", "ደ")]))  # fmt: skip
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>", special_tokens=ends)
    other = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    examples = [Example(("abc", "d"), (0, 1), ""), Example(("ወደ", "ab", "ወደ"), (0, 1, 2), "")]
    encoded = encode(data(examples), examples, other, 8)
    for example, item in zip(examples, encoded.inputs, strict=True):
        assert item["input_ids"] == other(" ".join(example.texts))["input_ids"]
        assert (item["labels"][0], item["labels"][-1]) == (IGNORED, IGNORED)
    if unknown is None:
        lost = encode(data(examples[:1]), examples[:1], other, 8)
        assert (lost.inputs, lost.n_lost) == ([], 2)
        assert scores_of(data(examples[:1]), lost, examples[:1], [])[0].tolist() == [[0.0] * len(LABELS)] * 2
        with pytest.raises(ConfigError, match="the tokenizer has no token for any of the words"):
            try_out(AutoModel.from_config(BertConfig(num_hidden_layers=1)), data(examples[:1]), lost, other)


def entities(tags):
    """Spans by conlleval's rules, implemented independently: an entity begins at B-, or I- after O or another type."""
    found, start = set(), None
    for at, (before, tag, after) in enumerate(zip(("O", *tags), tags, (*tags[1:], "O"), strict=False)):
        if tag != "O" and (tag[0] == "B" or before == "O" or before[2:] != tag[2:]):
            start = at
        if tag != "O" and (after == "O" or after[0] == "B" or after[2:] != tag[2:]):
            found.add((start, at, tag[2:]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_conllevals_counted_independently(tokenizer, seed):
    examples = sentences(seed, 30, 50)
    chance = random.Random(seed)
    encoded = encode(data(examples), examples, tokenizer, 24)
    noise = {(n, w): chance.random() < 0.3 for n, e in enumerate(examples) for w in range(len(e.texts))}
    guess = {key: chance.randrange(5) for key in noise}
    outputs = list(
        outputs_that_say(
            encoded,
            lambda n, place: guess[n, place.word] if noise[n, place.word] else examples[n].label[place.word],
        )
    )
    predictions = best_labels(data(examples), encoded, examples, outputs)
    gold, found = (
        {(n, *span) for n, numbers in enumerate(side) for span in entities([LABELS[label] for label in numbers])}
        for side in ([example.label for example in examples], predictions)
    )
    right = len(gold & found)
    precision, recall = right / len(found), right / len(gold)
    metrics = evaluate(data(examples), examples, predictions)
    assert metrics["precision"] == pytest.approx(precision)
    assert metrics["recall"] == pytest.approx(recall)
    assert metrics["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    table = per_class(data(examples), examples, predictions)
    assert {kind: row["support"] for kind, row in table.items()} == {
        kind: sum(span[3] == kind for span in gold) for kind in ("LOC", "PER")
    }


def test_windows_overlap_by_half():
    from attention_guidance.commands.finetuning.examples.encoding import _starts

    for n_tokens in range(1, 60):
        starts = _starts(n_tokens, 10, 5)
        assert starts[0] == 0
        assert starts[-1] == max(0, n_tokens - 10)
        assert all(0 < after - before <= 5 for before, after in pairwise(starts))


def test_training_goes_through_a_long_sentence_about_once(tokenizer):
    examples = [Example(tuple(["king"] * 300), (0,) * 300, "")]
    apart, overlapping = (encode(data(examples), examples, tokenizer, 32, overlap=overlap) for overlap in (False, True))
    read = [sum(len(item["input_ids"]) for item in encoded.inputs) for encoded in (apart, overlapping)]
    assert read[0] < 0.6 * read[1]
    # Every word is trained on exactly once.
    assert [place.word for places in apart.places for place in places] == [*range(300)]


@pytest.mark.shared
def test_real_sentences_longer_than_the_model(tokenizer, shared_data):
    text = read_tagged(shared_data / "swahili" / "ner" / "dev.txt")
    tags = {tag for sentence in text.sentences for tag in sentence.tags}
    labels = tuple(sorted(tags, key=lambda tag: (tag != "O", tag)))
    examples = [Example(s.words, tuple(labels.index(tag) for tag in s.tags), "") for s in text.sentences[:60]]
    of_task = Data(get_task("ner"), labels, {"dev": examples}, {}, (), "BIO")
    encoded = encode(of_task, examples, tokenizer, 32)
    assert encoded.n_windowed > 30
    assert encoded.n_lost == 0
    outputs = [
        np.eye(len(labels))[[max(0, label) for label in item["labels"]]] for item in encoded.inputs
    ]  # fmt: skip
    assert best_labels(of_task, encoded, examples, outputs) == [example.label for example in examples]
