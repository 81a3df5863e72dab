from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from attention_guidance.commands.objectives.base import Draws, validate, validation_batches
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import IGNORED, Masking
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.errors import ConfigError

MASK, VOCABULARY = 4, 1000
MASKING = Masking(0.15, MASK, frozenset(range(5)), VOCABULARY)
NAMING = MaskedTokens(MASKING)


def some_blocks(n: int = 7, length: int = 20, padding: int = 0) -> Blocks:
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (n, length)).astype(np.uint16)
    lengths = np.full(n, length, np.int32)
    ids[:, 0] = 0
    if padding:
        ids[1, -padding:] = 1
        lengths[1] -= padding
    ids[np.arange(n), lengths - 1] = 2
    return Blocks(ids, lengths)


@pytest.mark.parametrize(("length", "chosen"), [(512, 77), (128, 19), (20, 3), (63, 9), (4, 1)])
def test_a_fixed_share_is_chosen_and_no_special_token(length, chosen):
    ids_T = np.full(512, 1, np.uint16)
    ids_T[:length] = np.random.default_rng(length).integers(5, VOCABULARY, length)
    ids_T[0], ids_T[length - 1] = 0, 2
    for seed in range(50):
        inputs_T, labels_T = MASKING(ids_T, length, np.random.default_rng(seed))
        assert (labels_T != IGNORED).sum() == chosen == max(1, round(0.15 * length))
        assert (labels_T[[0, length - 1]] == IGNORED).all()
        assert (labels_T[length:] == IGNORED).all()
        assert (inputs_T[labels_T == IGNORED] == ids_T[labels_T == IGNORED]).all()
        assert (labels_T[labels_T != IGNORED] == ids_T[labels_T != IGNORED]).all()


def test_80_10_10():
    ids_T = np.random.default_rng(0).integers(5, VOCABULARY, 40_000)
    inputs_T, labels_T = MASKING(ids_T, len(ids_T), np.random.default_rng(1))
    inputs, labels = inputs_T[labels_T != IGNORED], labels_T[labels_T != IGNORED]
    n = len(labels)
    masked, kept = inputs == MASK, inputs == labels
    # Four standard deviations of a binomial count; a random token is the true one once in 995 draws.
    for count, share in ((masked.sum(), 0.8), (kept.sum(), 0.1 + 0.1 / 995), ((~masked & ~kept).sum(), 0.1)):
        assert abs(count - share * n) < 4 * (n * share * (1 - share)) ** 0.5
    drawn = inputs[~masked & ~kept]
    assert drawn.min() >= 5
    assert drawn.max() < VOCABULARY
    assert len(np.unique(drawn)) > 300


def test_more_to_choose_than_there_is():
    inputs_T, labels_T = MASKING(np.array([0, 2]), 2, np.random.default_rng(0))
    assert inputs_T.tolist() == [0, 2]
    assert labels_T.tolist() == [IGNORED, IGNORED]


def test_a_draw_depends_on_seed_and_number_alone():
    in_order = Draws(some_blocks(), NAMING, 21, seed=3)
    backwards = Draws(some_blocks(), NAMING, 1000, seed=3)
    other_seed = Draws(some_blocks(), NAMING, 21, seed=4)
    drawn = [in_order[n] for n in range(21)]
    for n in reversed(range(21)):
        again = backwards[n]
        assert all(torch.equal(again[name], drawn[n][name]) for name in ("input_ids", "labels"))
    assert any(not torch.equal(other_seed[n]["labels"], drawn[n]["labels"]) for n in range(21))


def test_each_epoch_draws_every_block_once_in_an_order_of_its_own():
    blocks = some_blocks(11)
    draws = Draws(blocks, NAMING, 33, seed=1)

    def block_of(draw: int) -> int:
        example = draws[draw]
        true_T = torch.where(example["labels"] == IGNORED, example["input_ids"], example["labels"])
        return blocks.ids.tolist().index(true_T.tolist())

    epochs = [[block_of(11 * epoch + place) for place in range(11)] for epoch in range(3)]
    assert all(sorted(order) == list(range(11)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_the_same_block_is_masked_anew_in_each_epoch():
    draws = Draws(some_blocks(1), NAMING, 20, seed=1)
    assert len({tuple(draws[n]["labels"].tolist()) for n in range(20)}) > 15


def test_collate():
    full, padded = some_blocks(), some_blocks(padding=6)
    batch = NAMING.collate([Draws(full, NAMING, 7, 0)[n] for n in range(7)])
    assert set(batch) == {"input_ids", "labels"}
    assert batch["input_ids"].shape == (7, 20)
    (batch,) = validation_batches(padded, NAMING, 8)
    assert batch["attention_mask"].sum(1).tolist() == [20, 14, 20, 20, 20, 20, 20]
    assert (batch["labels"][1, 14:] == IGNORED).all()


def test_validation_is_masked_alike_every_time_and_at_every_batch_size(make_model):
    blocks, model = some_blocks(), make_model(vocab_size=VOCABULARY)
    assert model.training
    one, again, other = (validate(model, NAMING, validation_batches(blocks, NAMING, size)) for size in (7, 7, 3))
    assert one == again
    assert one.n_items == other.n_items == 7 * 3
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    assert model.training


def tiny(family, **settings):
    """A tiny masked language model; the prediction head has another name in each family."""
    small = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **small, **tokens, **settings))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["roberta", "bert", "albert", "modernbert", "distilbert", "electra"])
def test_the_masked_head_gives_the_loss_and_gradients_of_the_full_one(family, batch, padded):
    inputs = batch if padded else {name: batch[name][:1] for name in ("input_ids", "labels")}
    full = tiny(family).double().eval()
    masked = copy.deepcopy(full)
    head = MaskedHead(masked)
    expected, got = full(**inputs), masked(**inputs)
    labels_BT = inputs["labels"] != IGNORED
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(got.logits, expected.logits[labels_BT], rtol=1e-12, atol=1e-12)
    expected.loss.backward()
    got.loss.backward()
    for (name, theirs), ours in zip(full.named_parameters(), masked.parameters(), strict=True):
        assert (theirs.grad is None) == (ours.grad is None), name
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-14, msg=name)
    without_labels = {name: value for name, value in inputs.items() if name != "labels"}
    assert masked(**without_labels).logits.shape == expected.logits.shape
    head.remove()
    assert torch.equal(masked(**inputs).logits, full(**inputs).logits)


def test_a_model_that_leaves_out_other_positions_itself_is_left_as_it_is(batch):
    model = tiny("modernbert", sparse_prediction=True).eval()
    expected = model(**batch).loss
    MaskedHead(model)
    assert torch.equal(model(**batch).loss, expected)


def test_remove_right_after_a_pass_with_labels(make_model, batch):
    model = make_model()
    hooks = (len(model._forward_pre_hooks), len(model.lm_head._forward_pre_hooks))
    head = MaskedHead(model)
    assert model(**batch).logits.dim() == 2
    head.remove()
    assert (len(model._forward_pre_hooks), len(model.lm_head._forward_pre_hooks)) == hooks
    assert model(**batch).logits.dim() == 3


# Ids from 5 on; every third begins a word, as does the first of a sequence.
WORDS = np.zeros(VOCABULARY, bool)
WORDS[5::3] = True


def sequence(*lengths):
    """A sequence of words of so many tokens, between special tokens; with the word of each position, -1 for none."""
    ids, words = [0], [-1]
    for number, n in enumerate(lengths):
        ids += [5 + 3 * (number % 300), *(6 + 3 * ((number + k) % 300) for k in range(n - 1))]
        words += [number] * n
    return np.array([*ids, 2]), np.array([*words, -1])


def masked(unit, ids_T, seed, rate=0.15):
    masking = Masking(rate, MASK, frozenset(range(5)), VOCABULARY, unit, WORDS)
    return masking(ids_T, len(ids_T), np.random.default_rng(seed))


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_chosen_whole_and_fill_the_share(unit):
    ids_T, words_T = sequence(*np.random.default_rng(0).integers(1, 5, 60))
    wanted, counts = round(0.15 * len(ids_T)), []
    for seed in range(200):
        _, labels_T = masked(unit, ids_T, seed)
        chosen = words_T[labels_T != IGNORED]
        assert -1 not in chosen
        for word in set(chosen):
            assert (chosen == word).sum() == (words_T == word).sum()
        counts.append(len(chosen))
    assert max(counts) == wanted
    assert np.mean(counts) > wanted - 0.2


def test_words_are_chosen_alike_often():
    ids_T, words_T = sequence(*[2] * 50)
    times = np.zeros(50)
    for seed in range(2000):
        _, labels_T = masked("word", ids_T, seed)
        np.add.at(times, np.unique(words_T[labels_T != IGNORED]), 1)
    share = times / 2000
    # 7 of 50 words (15 of 102 tokens); four standard deviations.
    assert abs(share - 7 / 50).max() < 4 * (0.14 * 0.86 / 2000) ** 0.5 + 1e-9


def test_spans_are_long_and_one_fate():
    ids_T, _ = sequence(*[1] * 2000)
    lengths, fates = [], []
    for seed in range(20):
        # So few that spans hardly ever touch.
        inputs_T, labels_T = masked("span", ids_T, seed, rate=0.02)
        chosen = np.flatnonzero(labels_T != IGNORED)
        for run in np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1):
            lengths.append(len(run))
            fates.append(np.mean(inputs_T[run] == MASK))
    # SpanBERT's mean is 3.8 words; the last of a sequence is cut to what is left.
    assert 3.4 < np.mean(lengths) < 4.2
    assert np.mean([fate in (0.0, 1.0) for fate in fates]) > 0.95
    assert 0.7 < np.mean([fate == 1.0 for fate in fates]) < 0.9


def test_span_lengths_are_spanberts():
    from attention_guidance.commands.objectives.masking import _span_length

    generator = np.random.default_rng(0)
    lengths = np.array([_span_length(generator) for _ in range(20_000)])
    assert (lengths.min(), lengths.max()) == (1, 10)
    assert lengths.mean() == pytest.approx(3.8, abs=0.06)
    assert (lengths == 2).mean() / (lengths == 1).mean() == pytest.approx(0.8, abs=0.05)


def test_a_span_does_not_cross_a_delimiter():
    ids_T = np.array([0, *[5] * 4, 2, 0, *[5] * 4, 2])
    for seed in range(100):
        _, labels_T = masked("span", ids_T, seed, rate=0.5)
        assert (labels_T[[0, 5, 6, 11]] == IGNORED).all()


def test_a_word_longer_than_the_share_is_begun():
    ids_T, _ = sequence(40)
    _, labels_T = masked("word", ids_T, 0)
    assert (labels_T != IGNORED).sum() == round(0.15 * 42)
    assert (masked("word", np.array([0, 2]), 0)[1] == IGNORED).all()


def test_the_rate_goes_from_one_to_the_other():
    blocks = some_blocks(n=10, length=100)
    draws = Draws(blocks, MaskedTokens(MASKING, 0.4, 0.1), 100, 1)
    counts = [int((draws[n]["labels"] != IGNORED).sum()) for n in range(100)]
    assert counts[0] == 40
    assert counts[50] == 25
    assert counts[99] == 10
    assert counts == sorted(counts, reverse=True)
    constant = Draws(blocks, MaskedTokens(MASKING, 0.4), 100, 1)
    assert {int((constant[n]["labels"] != IGNORED).sum()) for n in range(100)} == {40}


class Vocabulary:
    """A tokenizer as far as masking asks it."""

    all_special_ids, mask_token_id = (0,), 0

    def __init__(self, *tokens):
        self.tokens = ("<mask>", *tokens)

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}


@pytest.mark.parametrize(
    ("tokens", "begin"),
    [
        (("the", "##re", "##s", "king"), "the king"),
        (("\u0120the", "re", "\u010a", "\u0120"), "\u0120the \u010a \u0120"),
        (("\u2581the", "re", "s"), "\u2581the"),
        (("\u00e2\u0122\u012dk", "\u00e2\u0122", "k"), "\u00e2\u0122\u012dk"),  # a zero-width space, in bytes
    ],
)
def test_where_words_begin(tokens, begin):
    from attention_guidance.commands.objectives.masking import word_starts

    found = word_starts(Vocabulary(*tokens))
    named = [token for token, begins in zip(Vocabulary(*tokens).tokens, found, strict=True) if begins]
    assert [token for token in named if token != "<mask>"] == begin.split()


def test_a_tokenizer_that_knows_no_words():
    with pytest.raises(ConfigError, match="use the objective mlm"):
        Masking.for_tokenizer(Vocabulary("a", "b"), unit="word")
