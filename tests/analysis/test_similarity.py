"""The divergence between heads against its definition, and the plane they are placed in."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from planted import Planted, uniform
from scipy.spatial.distance import jensenshannon

from attention_guidance.analysis.similarity import head_divergence, head_positions
from attention_guidance.errors import ConfigError


def test_it_is_the_divergence_of_eager_maps(make_model, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model = make_model().eval()
    found = head_divergence(model, [inputs], rows=1000)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(**inputs, output_attentions=True).attentions)
    rows_NRK = maps.permute(0, 2, 1, 3, 4)[:, :, inputs["attention_mask"].bool()].flatten(0, 1).double().numpy()
    expected = [[np.mean(jensenshannon(p, q, axis=-1) ** 2) for q in rows_NRK] for p in rows_NRK]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_alike_heads_are_0_and_opposite_ones_ln_2():
    model, sharp = uniform(), 60 * torch.eye(8)
    with (
        Planted(model, 0, 0, sharp.roll(1, 1)),
        Planted(model, 1, 0, sharp.roll(1, 1)),
        Planted(model, 1, 1, sharp.roll(-1, 1)),
    ):
        found = head_divergence(model, [{"input_ids": torch.randint(5, 60, (3, 8))}])
    assert found[0, 4] == pytest.approx(0, abs=1e-6)
    assert found[0, 5] == pytest.approx(math.log(2), abs=1e-6)
    assert found[1, 2] == pytest.approx(0, abs=1e-6)
    assert np.array_equal(found, found.T)
    positions = head_positions(found)
    assert np.linalg.norm(positions[0] - positions[4]) < 1e-3 < np.linalg.norm(positions[0] - positions[5])


def test_the_sample_is_as_large_as_asked_and_seeded(make_model, batch):
    inputs = {"input_ids": batch["input_ids"]}
    model = make_model()
    one, again, other = (head_divergence(model, [inputs] * 3, rows=20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    with pytest.raises(ConfigError, match="batches is empty"):
        head_divergence(model, [])


def test_positions_keep_distances_that_lie_in_a_plane():
    places = np.random.default_rng(0).normal(size=(7, 2))
    squares = ((places[:, None] - places[None]) ** 2).sum(-1)
    found = head_positions(squares)
    np.testing.assert_allclose(((found[:, None] - found[None]) ** 2).sum(-1), squares, atol=1e-9)
    assert head_positions(np.zeros((1, 1))).tolist() == [[0, 0]]
