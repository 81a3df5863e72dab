"""Ablation runs blocks once whose outputs do not depend on the removed head, and gives the same as without this."""

from __future__ import annotations

import itertools

import multihead
import numpy as np
import pytest
import torch
from test_ablation import N_HEADS, masked_lm

from attention_guidance.analysis import ablate, without_heads
from attention_guidance.analysis.reuse import Reuse


def test_blocks_below_the_head_run_once_for_all_its_heads():
    model, batches = masked_lm("Bert")
    runs = []
    first = model.bert.encoder.layer[0].intermediate.dense
    hook = first.register_forward_hook(lambda *_: runs.append(1))
    ablate(model, batches[:1])
    hook.remove()
    # With all heads, and without each head of layer 0.
    assert len(runs) == 1 + N_HEADS


def test_nothing_is_reused_where_blocks_share_more_than_they_return(monkeypatch):
    model, batches = masked_lm("Bert")
    expected = ablate(model, batches).difference.value
    seen = {}
    first, last = model.bert.encoder.layer

    def keep(module, args, out):
        seen["first"] = out

    def add(module, args, out):
        return out + seen.pop("first", 0)

    def drop(module, args):
        seen.clear()

    hooks = [
        model.register_forward_pre_hook(drop),
        first.output.register_forward_hook(keep),
        last.output.register_forward_hook(add),
    ]
    found = ablate(model, batches).difference.value
    monkeypatch.setattr(Reuse, "on_call", lambda *_: None)
    np.testing.assert_array_equal(found, ablate(model, batches).difference.value)
    assert np.abs(found - expected).max() > 1e-3
    for hook in hooks:
        hook.remove()


def test_outputs_of_blocks_may_be_changed_in_place():
    """In a third layer, two blocks are given out, and only the second is read."""
    model, given = multihead.make_encoder(n_layers=3).double(), {"src": multihead.inputs_of(dtype=torch.double)}
    for block in model.layers:
        block.register_forward_hook(lambda block, args, out: out.mul_(1.5))

    def measure(model, batch):
        out = model(**batch)
        return out.pow(2)[..., :3].sum((1, 2)), torch.ones(len(out))

    found = ablate(model, given, measure=measure)
    for place in itertools.product(range(3), range(N_HEADS)):
        with without_heads(model, [place]), torch.no_grad():
            expected = float(measure(model, given)[0].mean())
        assert float(found.loss.value) + found.difference.value[place] == pytest.approx(expected, abs=1e-9)
    assert np.ptp(found.difference.value) > 1e-3
