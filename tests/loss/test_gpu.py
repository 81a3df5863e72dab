"""On an NVIDIA GPU: its backends against the reference in float64 on the CPU. Skipped where there is none."""

import dataclasses

import pytest
import torch
from calls import MASKS, PATTERNS, evaluate, make_call

from attention_guidance import guide
from attention_guidance.loss import flash, flex, reference
from attention_guidance.loss.backends import agrees
from attention_guidance.patterns import Targets

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def on_gpu(call, dtype):
    def moved(tensor):
        return None if tensor is None else tensor.cuda()

    groups = tuple(
        (dataclasses.replace(targets, **{f.name: moved(getattr(targets, f.name)) for f in dataclasses.fields(Targets)
                                         if isinstance(getattr(targets, f.name), torch.Tensor)}), n_heads)
        for targets, n_heads in call.groups
    )  # fmt: skip
    tensors = {
        name: getattr(call, name).detach().to("cuda", dtype).requires_grad_()
        for name in ("query_BHQD", "key_BHKD", "value_BHKD")
    }
    return dataclasses.replace(call, groups=groups, mask=moved(call.mask), **tensors)


def evaluate_on_gpu(backend, call):
    """`evaluate` draws its weights on the CPU, so results are moved there before they are summed."""

    class Moved:
        @staticmethod
        def attend(call):
            out, statistics = backend.attend(call)
            fields = (statistics.squares_BHQ, statistics.mass_BHQ, statistics.n_targets_BHQ)
            return out.cpu(), type(statistics)(*(field.cpu() for field in fields))

    return {name: value.cpu() for name, value in evaluate(Moved, call).items()}


@pytest.mark.parametrize("backend", [reference, flash, flex], ids=["reference", "flash", "flex"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [63, 128, 513])
def test_backends_of_a_gpu(backend, dtype, mask, length):
    call = make_call(PATTERNS, mask, length=length, channels=64)
    expected = evaluate(reference, call)
    found = evaluate_on_gpu(backend, on_gpu(call, dtype))
    tolerance = 1e-3 if dtype == torch.float32 else 0.05
    for name, value in expected.items():
        assert torch.isfinite(found[name]).all(), name
        assert (found[name].double() - value).norm() <= tolerance * value.norm() + 1e-6, name


def test_auto_takes_a_fast_backend():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert agrees("flash", "cuda", dtype)


def test_a_model_trains(make_model, batch):
    model = make_model("bert").cuda()
    handle = guide(model, "next:1 previous:1 first:1", weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs = {name: tensor.cuda() for name, tensor in batch.items()}
    losses = []
    for _ in range(30):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(head.error for head in handle.per_head()))
    assert losses[-1] < 0.7 * losses[0]
