"""Masks for each head are biases: relative positions (BEiT, Parakeet), and keys that some heads do not see."""

import dataclasses

import eager_maps
import pytest
import torch
from torch import nn
from transformers import BeitConfig, BeitModel

from attention_guidance import guide
from attention_guidance.analysis import observing, take_census, without_heads
from attention_guidance.analysis.observe import attention_map
from attention_guidance.errors import AttachError
from attention_guidance.loss import backends, reference
from attention_guidance.loss.call import AttentionCall
from attention_guidance.patterns import Offset, Sequences

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# BEiT's eager attention takes its softmax in float32, whatever the model's precision.
ROUNDING = 1e-5
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}


def beit(**how):
    torch.manual_seed(0)
    config = BeitConfig(**SIZE, **NO_DROPOUT, image_size=16, patch_size=4, **how)
    model = BeitModel(config).double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias_table" in name:
                nn.init.normal_(parameter)
            elif "query" in name or "key" in name:
                parameter.mul_(8)
    return model, {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("how", ["use_relative_position_bias", "use_shared_relative_position_bias"])
def test_relative_positions_are_guided_and_trained(how, backend):
    model, inputs = beit(**{how: True})
    handle = guide(model, "next:1 previous:1", weight=1.0, backend=backend)
    model(**inputs)
    assert "-> reference" in handle.explain_backend() or backend == "reference"
    handle.loss().backward()
    plain, _ = beit(**{how: True})
    heads = {(layer, head): (lambda b, i, step=(1, -1)[head]: [i + step] if i + step >= 0 else []) for layer in range(2)
             for head in range(2)}  # fmt: skip
    expected = eager_maps.guidance(plain, inputs, heads, torch.ones(2, 17, dtype=torch.bool))
    expected.backward()
    assert handle.loss().item() == pytest.approx(expected.item(), rel=ROUNDING)
    eager_maps.assert_same_gradients(model, plain, ROUNDING)
    tables = [parameter.grad for name, parameter in model.named_parameters() if "bias_table" in name]
    assert tables
    assert all(table.abs().max() > 1e-4 for table in tables)


def test_a_backend_without_biases_names_those_that_have_them():
    model, inputs = beit(use_relative_position_bias=True)
    guide(model, "next:1", backend="blocked")
    with pytest.raises(AttachError, match="adds a bias to its attention scores; reference can"):
        model(**inputs)


def test_they_are_looked_at_and_ablated():
    model, inputs = beit(use_relative_position_bias=True)
    model.eval()
    plain, _ = beit(use_relative_position_bias=True)
    plain.eval().set_attn_implementation("eager")
    maps = plain(**inputs, output_attentions=True).attentions
    seen = {}
    with observing(model, lambda layer, call: seen.update({layer: attention_map(call)})) as watched:
        watched(inputs)
    for layer, expected in enumerate(maps):
        torch.testing.assert_close(seen[layer], expected, rtol=ROUNDING, atol=1e-6)
    census = take_census(model, inputs, ["next"])
    expected = maps[1][:, 2].diagonal(1, -2, -1).mean().item()
    assert census.mass.value[1, 2, 0] == pytest.approx(expected, rel=1e-6)
    with without_heads(model, [(0, 1)]):
        without = model(**inputs)[0]
    part = slice(8, 16)
    with torch.no_grad():
        value = next(m for name, m in plain.named_modules() if name.endswith(("v_proj", "value")))
        value.weight[part], value.bias[part] = 0, 0
    torch.testing.assert_close(without, plain(**inputs)[0], rtol=ROUNDING, atol=ROUNDING)


def by_head(kind, n_heads=3, length=7):
    """Queries, keys, and a mask in which every head hides other keys, with one query that one head shows nothing."""
    generator = torch.Generator().manual_seed(1)
    query, key = (
        torch.randn(2, n_heads, length, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in "qk"
    )
    shown = torch.rand(2, n_heads, length, length, generator=generator) < 0.6
    shown |= torch.eye(length, dtype=torch.bool)
    shown[0, 1, 2] = False
    values = torch.randn(shown.shape, generator=generator, dtype=torch.float64)
    mask = shown if kind == "bool" else values.masked_fill(~shown, -torch.inf if kind == "infinite" else -1e30)
    return query, key, shown, values * (kind != "bool"), mask


@pytest.mark.parametrize("log_mass", [False, True])
@pytest.mark.parametrize("kind", ["bool", "infinite", "lowest"])
def test_a_head_has_the_targets_that_it_sees(kind, log_mass):
    query, key, shown, values, mask = by_head(kind)
    targets = (Offset(1) | Offset(-1)).targets(Sequences(torch.ones(2, 7, dtype=torch.bool)))
    call = AttentionCall(query, key, key, ((targets, 1), (targets, 1)), 0.5, mask, log_mass=log_mass)
    call = call.with_bool_mask().of_heads((2, 1))
    rows = reference.statistics(call)
    for at, head in enumerate((2, 1)):
        scores = 0.5 * query[:, head] @ key[:, head].mT + values[:, head]
        for b in range(2):
            for i in range(7):
                keys = [j for j in range(7) if shown[b, head, i, j]]
                hit = [keys.index(j) for j in (i - 1, i + 1) if j in keys]
                map_k = scores[b, i, keys].softmax(-1)
                assert rows.n_targets_BHQ[b, at, i] == len(hit)
                assert rows.squares_BHQ[b, at, i].item() == pytest.approx(map_k.square().sum().item(), abs=1e-12)
                mass = map_k[hit].sum().item()
                expected = (torch.tensor(mass).log().item() if hit else 0) if log_mass else mass
                assert rows.mass_BHQ[b, at, i].item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    (rows.squares_BHQ.sum() + rows.mass_BHQ.sum()).backward()
    assert torch.isfinite(query.grad).all()
    assert torch.isfinite(key.grad).all()


def test_only_the_reference_serves_them():
    case = dataclasses.replace(backends.Case("cpu", torch.float32, 128), bias=True)
    assert backends.able(case) == ["reference"]
