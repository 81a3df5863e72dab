"""Low precision: every backend is as near to float64 as eager maps in the same precision are."""

import pytest
import torch
from calls import PATTERNS, evaluate, in_double, make_call, sharpened
from numerics import assert_as_good_as

from attention_guidance.loss import batched, blocked, blocks, reference
from attention_guidance.loss.statistics import RowStatistics


class Eager:
    """What a model does that gives out its maps: scores, softmax in float32, maps in its own precision, squares."""

    @staticmethod
    def attend(call):
        scores = call.query_BHQD @ call.key_BHKD.transpose(-1, -2) * call.scale
        if call.mask is not None:
            scores = scores.masked_fill(~call.mask, torch.finfo(scores.dtype).min)
        precise = torch.promote_types(scores.dtype, torch.float32)
        maps = scores.softmax(-1, dtype=precise).to(call.value_BHKD.dtype)
        rows, counts = [], []
        for targets, heads in call.slices():
            hit = targets.dense()[:, None] & (call.mask if call.mask is not None else torch.tensor(True))
            hit = hit.expand(len(maps), heads.stop - heads.start, *maps.shape[2:])
            n_targets = hit.sum(-1)
            goal = hit / n_targets.clamp(min=1)[..., None].to(maps.dtype)
            rows.append((maps[:, heads] - goal).square().sum(-1).to(precise))
            counts.append(n_targets.to(precise))
        # Statistics that `row_losses` turns back into the rows.
        counts = torch.cat(counts, 1)
        rows = torch.cat(rows, 1)
        to_target = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
        return maps @ call.value_BHKD, RowStatistics(rows - to_target, torch.zeros_like(rows), counts)


@pytest.mark.parametrize("backend", [reference, batched, blocked], ids=["reference", "batched", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("length", [1, 2, 63, 100, 128, 513])
@pytest.mark.parametrize("mask", ["none", "keys"])
@pytest.mark.parametrize("sharpness", [0.2, 2.0, "on target"])
def test_no_worse_than_twice_eager_maps(backend, dtype, length, mask, sharpness):
    patterns = PATTERNS[:1] if sharpness == "on target" else [PATTERNS[0], PATTERNS[3], PATTERNS[6]]
    call = sharpened(make_call(patterns, mask, length=length, channels=64, dtype=dtype), sharpness)
    truth = evaluate(reference, in_double(call))
    assert_as_good_as(evaluate(backend, call), evaluate(Eager, call), truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
def test_sums_over_many_blocks_lose_nothing(dtype, monkeypatch):
    call = make_call([PATTERNS[0], PATTERNS[3]], length=256, channels=64, dtype=dtype)
    truth = evaluate(reference, in_double(call))
    eager = evaluate(Eager, call)
    monkeypatch.setattr(blocks, "BLOCK", 4 * 256)
    assert_as_good_as(evaluate(blocked, call), eager, truth)


@pytest.mark.parametrize("backend", [reference, batched, blocked], ids=["reference", "batched", "blocked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
def test_finite_where_attention_is(backend, dtype, log_mass):
    """Scores of thousands, rows that see nothing, rows without a target, a sequence that is all padding."""
    call = make_call(PATTERNS, "pairs", n_batch=3, length=12, dtype=dtype, log_mass=log_mass)
    with torch.no_grad():
        call.query_BHQD.mul_(60)
        call.key_BHKD.mul_(60)
        call.mask[2] = False
    for name, value in evaluate(backend, call).items():
        assert torch.isfinite(value).all(), name
    assert not evaluate(backend, call)["output"][2].any()
