"""The other means to the effect of guidance do what `python -m benchmarks.evidence` says that they do."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from attention_guidance.analysis import take_census


@pytest.fixture
def changed(make_model, monkeypatch):
    """A model with a change, and the change."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    changes = importlib.import_module("benchmarks.evidence.changes").CHANGES

    def make(name: str):
        model = make_model("roberta", num_attention_heads=2, hidden_size=64).eval()
        return model, changes[name](SimpleNamespace(model=model, config=SimpleNamespace(max_steps=10, seed=1)))

    return make


def attended(model, layer: int = 0):
    """What the heads of a layer put out for values that are their positions, [H, T]."""
    attention = model.base_model.encoder.layer[layer].attention.self
    n_heads, n = attention.num_attention_heads, 12
    chance = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, n_heads, n, 8, generator=chance) for _ in range(2))
    value = torch.arange(n).float().view(1, 1, n, 1).expand(1, n_heads, n, 8)
    module = importlib.import_module("benchmarks.evidence.changes")
    return module._biased_attention(attention, query, key, value, None, 1.0)[0][0, :, :, 0].T


def test_fixed_heads_attend_to_their_target_alone(changed):
    model, _ = changed("fixed")
    found_HT = attended(model)
    assert found_HT[0, :-1].tolist() == pytest.approx([*range(1, 12)])
    assert found_HT[1, 1:].tolist() == pytest.approx([*range(11)])
    # Without a target they attend freely.
    assert 0 < found_HT[0, -1] < 11


def test_prior_is_gone_at_the_end(changed):
    model, change = changed("prior")
    assert change.bias(0)[0, 3].nonzero().tolist() == [[4]]
    assert change.bias(0)[0, 3, 4] == change.bias(2)[0, 3, 4] == 6
    assert change.bias(6)[0, 3, 4] == pytest.approx(3)
    assert change.bias(10).abs().max() == 0
    change.on_step_begin(None, SimpleNamespace(global_step=10), None)
    assert attended(model)[0, :-1].tolist() != pytest.approx([*range(1, 12)], abs=0.5)


def test_a_changed_model_computes_with_its_bias(changed, batch):
    model, change = changed("fixed")
    with torch.no_grad():
        ours = model(input_ids=batch["input_ids"]).logits
        change.set_bias(torch.zeros_like(change.targets_HTT))
        free = model(input_ids=batch["input_ids"]).logits
        model.set_attn_implementation("sdpa")
        plain = model(input_ids=batch["input_ids"]).logits
    assert torch.allclose(free, plain, atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)


@torch.no_grad()
def test_mimetic_products_are_those_of_the_paper(changed):
    model, _ = changed("mimetic")
    layer = model.base_model.encoder.layer[0].attention
    value_output = layer.self.value.weight.T @ layer.output.dense.weight.T
    # Noise of variance 0.16 / 64 around -0.4 times the identity.
    assert value_output.diagonal().mean() == pytest.approx(-0.4, abs=0.03)
    assert (value_output + 0.4 * torch.eye(64)).std() == pytest.approx(0.4 / 8, rel=0.1)
    query, key = (part.weight.view(2, 32, 64) for part in (layer.self.query, layer.self.key))
    # Half of the rank keeps the larger half of the product.
    assert (query[0].T @ key[0]).diagonal().mean() > 0.35


def test_weights_begin_on_the_pattern(changed):
    ids = torch.randint(5, 64, (8, 12), generator=torch.Generator().manual_seed(0))
    masses = {}
    for name in ("positions", "weights"):
        model, _ = changed(name)
        masses[name] = take_census(model, {"input_ids": ids}, "next previous").mass.value
    assert masses["weights"][:, 0, 0].min() > 0.8
    assert masses["weights"][:, 1, 1].min() > 0.8
    assert masses["positions"].max() < 0.5
