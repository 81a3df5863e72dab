"""The census against the model's own eager maps, and against heads whose pattern is known."""

from __future__ import annotations

import copy
import math

import encoders
import numpy as np
import pytest
import torch
from planted import Planted, uniform
from torch import nn

from attention_guidance import get_pattern, guide
from attention_guidance.analysis.census import MEASURES, take_census
from attention_guidance.analysis.intervals import RatioSums
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.loss import blocks
from attention_guidance.patterns import First, Offset, TokenClass

PATTERNS = [Offset(1), Offset(-1), First(), Offset(0), TokenClass("some", (7, 8, 9, 10, 11, 12))]


def by_hand(maps_LBHQK, valid, ids, pattern):
    """Row by row: sums of mass, argmax hits and squared error, and the count, for each layer, sequence and head."""
    n_layers, n_batch, n_heads = maps_LBHQK.shape[:3]
    sums, counts = np.zeros((n_layers, n_batch, n_heads, 3)), np.zeros((n_layers, n_batch))
    for layer in range(n_layers):
        allowed = (maps_LBHQK[layer] > 0).any(1)
        for b in range(n_batch):
            real = valid[b].nonzero().flatten().tolist()
            for i in real:
                if isinstance(pattern, Offset):
                    keys = [i + pattern.offset] if i + pattern.offset in real else []
                elif isinstance(pattern, First):
                    keys = real[:1]
                else:
                    keys = [j for j in real if ids[b, j].item() in pattern.token_ids]
                keys = [j for j in keys if allowed[b, i, j]]
                if not keys:
                    continue
                counts[layer, b] += 1
                for head in range(n_heads):
                    row = maps_LBHQK[layer, b, head, i]
                    target = torch.zeros_like(row)
                    target[keys] = 1 / len(keys)
                    sums[layer, b, head] += [
                        row[keys].sum().item(), row.argmax().item() in keys, (row - target).square().sum().item(),
                    ]  # fmt: skip
    return sums, counts


def eager_maps(model, inputs):
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return torch.stack(model(**inputs, output_attentions=True).attentions)


@pytest.mark.parametrize("name", encoders.TEXT)
def test_every_figure_is_that_of_eager_maps(name):
    model, inputs = encoders.make(name)
    maps, valid = eager_maps(model, inputs), inputs["attention_mask"].bool()
    census = take_census(model, [inputs], PATTERNS)
    for p, pattern in enumerate(PATTERNS):
        sums, counts = by_hand(maps, valid, inputs["input_ids"], pattern)
        assert (census.rows[:, p] == counts.sum(1)).all()
        with np.errstate(invalid="ignore"):
            expected = sums.sum(1) / counts.sum(1)[:, None, None]
        for m, measure in enumerate(MEASURES):
            np.testing.assert_allclose(getattr(census, measure).value[..., p], expected[..., m], atol=1e-6)
    rows = torch.special.entr(maps).sum(-1).permute(0, 2, 1, 3)[..., valid]
    np.testing.assert_allclose(census.entropy.value, rows.mean(-1), atol=1e-6)


@pytest.mark.parametrize("block", [7, 40])
def test_small_blocks_change_nothing(make_model, batch, monkeypatch, block):
    model, inputs = make_model(), {name: batch[name] for name in ("input_ids", "attention_mask")}
    whole = take_census(model, [inputs], PATTERNS)
    monkeypatch.setattr(blocks, "BLOCK", block)
    split = take_census(model, [inputs], PATTERNS)
    for measure in (*MEASURES, "entropy"):
        np.testing.assert_allclose(getattr(split, measure).value, getattr(whole, measure).value, atol=1e-6)


def test_batches_add_up(make_model, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model = make_model()
    whole = take_census(model, [inputs], PATTERNS)
    parts = take_census(model, [{name: x[i : i + 2] for name, x in inputs.items()} for i in (0, 2, 4)], PATTERNS)
    assert (parts.n_sequences, parts.n_tokens) == (whole.n_sequences, whole.n_tokens) == (5, 53)
    for measure in (*MEASURES, "entropy"):
        for end in ("value", "low", "high"):
            np.testing.assert_allclose(
                getattr(getattr(parts, measure), end), getattr(getattr(whole, measure), end), atol=1e-5
            )


def test_planted_heads_are_found_and_uniform_ones_follow_nothing():
    model, ids = uniform(), torch.randint(5, 60, (3, 8))
    sharp = 30 * torch.eye(8)
    with Planted(model, 0, 1, sharp.roll(1, 1)), Planted(model, 1, 3, sharp.roll(-1, 1)):
        census = take_census(model, [{"input_ids": ids}], PATTERNS[:4])
    assert census.followed() == [[None, "next", None, None], [None, None, None, "previous"]]
    assert census.mass.value[0, 1, 0] == pytest.approx(1, abs=1e-6)
    assert census.argmax_share.value[0, 1, 0] == 1
    assert census.squared_error.value[0, 1, 0] == pytest.approx(0, abs=1e-6)
    assert census.entropy.value[0, 1] == pytest.approx(0, abs=1e-6)
    # An even head: 1/8 on any key, as `uniform_mass` says; its entropy is that of a die with eight faces.
    np.testing.assert_allclose(census.mass.value[0, 0], 1 / 8, atol=1e-6)
    np.testing.assert_allclose(census.uniform_mass, 1 / 8, atol=1e-12)
    assert census.squared_error.value[0, 0, 0] == pytest.approx(7 / 8, abs=1e-6)
    assert census.entropy.value[0, 0] == pytest.approx(math.log(8), abs=1e-6)
    assert census.shares() == {"next": 1 / 8, "previous": 1 / 8, "first": 0, "same": 0, "none": 6 / 8}


def test_even_attention_is_over_what_a_query_sees(batch):
    """With padding there are fewer keys to spread attention over."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    census = take_census(uniform(), [inputs], [First(), Offset(1)])
    lengths = inputs["attention_mask"].sum(-1).double()
    assert census.uniform_mass[0].tolist() == pytest.approx(
        [len(lengths) / lengths.sum().item(), ((lengths - 1) / lengths).sum().item() / (lengths - 1).sum().item()]
    )
    np.testing.assert_allclose(census.mass.value[:, 0], census.uniform_mass, atol=1e-6)


def test_a_pattern_that_even_attention_satisfies_is_followed_by_nobody():
    everything = TokenClass("everything", tuple(range(64)))
    census = take_census(uniform(), [{"input_ids": torch.randint(5, 60, (2, 6))}], [everything, Offset(1)])
    np.testing.assert_allclose(census.mass.value[..., 0], 1, atol=1e-6)
    assert census.shares()["none"] == 1


def test_a_pattern_without_a_row_is_nan_and_followed_by_nobody(make_model, batch):
    census = take_census(make_model(), [{"input_ids": batch["input_ids"]}], [TokenClass("absent", (63,)), Offset(1)])
    absent = (batch["input_ids"] == 63).sum().item()
    assert absent == 0
    assert np.isnan(census.mass.value[..., 0]).all()
    assert (census.rows[:, 0] == 0).all()
    assert all(name != "absent" for layer in census.followed(0.0) for name in layer)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    chance = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        # Rows of a sequence share a level, and long sequences are no rarer than short ones.
        counts = chance.integers(1, 30, size=40)
        levels = chance.normal(0.3, 0.1, size=40)
        sums = RatioSums(())
        sums.add(levels * counts, counts)
        _, low, high = sums.estimate()
        held += low <= 0.3 <= high
    assert 0.92 <= held / 1000 <= 0.975


def test_the_interval_of_a_plain_mean_is_students():
    values = np.array([0.1, 0.4, 0.2, 0.7])
    sums = RatioSums(())
    sums.add(values[:3] * 5, np.full(3, 5))
    sums.add(values[3:] * 5, np.full(1, 5))
    mean, low, high = sums.estimate()
    half = 3.182446 * values.std(ddof=1) / 2  # t of three degrees of freedom
    assert (mean, low, high) == pytest.approx((0.35, 0.35 - half, 0.35 + half))


def test_sequences_without_a_row_do_not_count():
    sums = RatioSums(())
    sums.add([1.0, 2.0, 0.0, 0.0], [2, 5, 0, 0])
    without = RatioSums(())
    without.add([1.0, 2.0], [2, 5])
    assert sums.estimate() == pytest.approx(without.estimate())


def test_layers_that_share_a_module_are_told_apart_in_every_pass():
    model, inputs = encoders.make("Albert")
    once, twice = (take_census(model, [inputs] * n, PATTERNS[:2]) for n in (1, 2))
    np.testing.assert_allclose(twice.mass.value, once.mass.value, atol=1e-9)


def test_a_single_sequence_has_no_interval(make_model, batch):
    census = take_census(make_model(), [{"input_ids": batch["input_ids"][:1]}], PATTERNS)
    assert np.isfinite(census.entropy.value).all()
    assert np.isnan(census.entropy.low).all()


def test_images_and_multihead_modules():
    model, inputs = encoders.make("ViT")
    maps = eager_maps(model, inputs)
    census = take_census(model, [inputs], [get_pattern("right"), get_pattern("class_token")])
    np.testing.assert_allclose(census.mass.value[..., 1], maps[..., 0].mean((1, 3)), atol=1e-6)
    right = [maps[:, :, :, 1 + i, 2 + i] for i in range(16) if i % 4 != 3]
    np.testing.assert_allclose(census.mass.value[..., 0], torch.stack(right).mean((0, 2)), atol=1e-6)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    census = take_census(nn.TransformerEncoder(layer, 2), [{"src": torch.randn(2, 5, 16)}], [Offset(1)])
    assert census.mass.value.shape == (2, 2, 1)


def test_the_model_comes_back_as_it_was(make_model, batch):
    model = make_model()
    model.roberta.encoder.layer[0].eval()
    before = [module.training for module in model.modules()]
    expected = model(**batch).loss
    take_census(model, [{"input_ids": batch["input_ids"]}], PATTERNS)
    assert [module.training for module in model.modules()] == before
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(**batch).loss, expected)
    guide(model, "next:1").remove()


def test_a_layer_that_never_attends_is_noticed(make_model, batch):
    model = make_model()
    model.roberta.encoder.layer[1].forward = lambda hidden, *rest, **more: hidden
    with pytest.raises(AttachError, match=r"never called the attention of layers \[1\]"):
        take_census(model, [{"input_ids": batch["input_ids"]}], PATTERNS)


def test_what_cannot_be_counted_is_refused(make_model, batch):
    inputs = {"input_ids": batch["input_ids"]}
    model = make_model()
    with pytest.raises(ConfigError, match="batches is empty"):
        take_census(model, [], PATTERNS)
    with pytest.raises(PatternError, match="next, next"):
        take_census(model, [inputs], [Offset(1), Offset(1)])
    with pytest.raises(PatternError, match="none"):
        take_census(model, [inputs], [])
    outside, other = encoders.make("XLM")
    with pytest.raises(AttachError, match=r"attention interface|never called"):
        take_census(outside, [other], PATTERNS)
    guidance = guide(model, "next:1")
    with pytest.raises(AttachError, match="guided already"):
        take_census(model, [inputs], PATTERNS)
    guidance.remove()
    with torch.no_grad():
        model.roberta.embeddings.word_embeddings.weight.fill_(math.nan)
    with pytest.raises(AttachError, match="not finite"):
        take_census(model, [inputs], PATTERNS)
