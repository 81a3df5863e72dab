"""On an NVIDIA GPU: the backends against the reference in float64 on the CPU. Skipped where there is none.

`make test-gpu` runs this file. What the kernels do in Triton's interpreter is tested in test_triton.py.
"""

import dataclasses

import pytest
import torch
from calls import MASKS, PATTERNS, evaluate, in_double, make_call, sharpened
from numerics import assert_as_good_as
from test_numerics import Eager

from attention_guidance import guide
from attention_guidance.loss import blocked, reference, triton
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


DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:]
)


def evaluate_on_gpu(backend, call, of="output rows"):
    """`evaluate` draws its weights on the CPU, so results are moved there before they are summed."""

    class Moved:
        @staticmethod
        def attend(call):
            out, statistics = backend.attend(call)
            fields = (statistics.squares_BHQ, statistics.mass_BHQ, statistics.n_targets_BHQ)
            return out.cpu(), type(statistics)(*(field.cpu() for field in fields))

    return {name: value.cpu() for name, value in evaluate(Moved, call, of).items()}


@pytest.mark.parametrize("backend", [reference, blocked, triton], ids=["reference", "blocked", "triton"])
@DTYPES
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


class TestKernels:
    @DTYPES
    @pytest.mark.parametrize("channels", [32, 64, 96, 128])
    @pytest.mark.parametrize(("length", "mask"), [(63, "keys"), (100, "pairs"), (512, "none"), (2000, "keys")])
    def test_no_worse_than_twice_eager_maps(self, dtype, channels, length, mask):
        patterns = [PATTERNS[0], PATTERNS[3], PATTERNS[6], PATTERNS[7]]
        call = make_call(patterns, mask, length=length, channels=channels, dtype=dtype)
        truth = evaluate(reference, in_double(call))
        on_device = on_gpu(call, dtype)
        eager, ours = evaluate_on_gpu(Eager, on_device), evaluate_on_gpu(triton, on_device)
        if mask == "pairs":
            # Eager maps are uniform, not zero, where a query sees nothing.
            eager = evaluate_on_gpu(reference, on_device)
        assert_as_good_as(ours, eager, truth)

    @DTYPES
    @pytest.mark.parametrize("length", [128, 1000])
    def test_guidance_where_a_head_follows_its_pattern(self, dtype, length):
        call = sharpened(make_call(PATTERNS[:1], "keys", length=length, channels=64, dtype=dtype), "on target")
        truth = evaluate(reference, in_double(call), "rows")
        on_device = on_gpu(call, dtype)
        eager = evaluate_on_gpu(Eager, on_device, "rows")
        assert_as_good_as(evaluate_on_gpu(triton, on_device, "rows"), eager, truth)

    @DTYPES
    @pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
    @pytest.mark.parametrize("mask", MASKS)
    def test_same_numbers_every_time(self, dtype, log_mass, mask):
        """No sum of theirs is in an order that changes; a number that does is a race."""
        call = on_gpu(make_call(PATTERNS, mask, length=700, channels=64, log_mass=log_mass), dtype)
        first = evaluate_on_gpu(triton, call)
        for _ in range(5):
            again = evaluate_on_gpu(triton, call)
            assert all(torch.equal(first[name], again[name]) for name in first)

    @pytest.mark.parametrize("backend", [blocked, triton], ids=["blocked", "triton"])
    def test_dropout_keeps_the_same_in_every_kernel(self, backend):
        """With values of one number each row of the output is what was kept; its gradient too."""
        call = on_gpu(make_call(PATTERNS[:2], "keys", length=500, channels=64, dropout=0.25), torch.float32)
        call = dataclasses.replace(call, value_BHKD=torch.ones_like(call.value_BHKD).requires_grad_())
        torch.manual_seed(1)
        out, _ = backend.attend(call)
        assert out.mean().item() == pytest.approx(1.0, abs=0.01)
        (grad_value,) = torch.autograd.grad(out.sum(), call.value_BHKD)
        # Either sums all that was kept, with its probability.
        assert grad_value.sum().item() == pytest.approx(out.sum().item(), rel=1e-5)

    def test_heads_among_others(self):
        call = on_gpu(make_call(PATTERNS[:2], "keys", length=300, channels=64, heads_each=3), torch.float32)
        groups = tuple((targets, 1) for targets, _ in call.groups)
        heads = (4, 1)
        out, rows = triton.attend(dataclasses.replace(call, groups=groups, heads=heads))
        whole, _ = reference.attend(call)
        torch.testing.assert_close(out, whole, rtol=1e-4, atol=1e-4)
        of_heads = {name: getattr(call, name)[:, list(heads)] for name in ("query_BHQD", "key_BHKD", "value_BHKD")}
        _, expected = reference.attend(dataclasses.replace(call, groups=groups, **of_heads))
        torch.testing.assert_close(rows.squares_BHQ, expected.squares_BHQ, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows.mass_BHQ, expected.mass_BHQ, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["triton", "blocked"])
def test_auto_takes_a_fast_backend(name):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for channels in (32, 64, 96, 128):
            assert agrees(name, "cuda", dtype, channels)


def test_a_compiled_model_has_the_same_loss(make_model, batch):
    inputs = {name: tensor.cuda() for name, tensor in batch.items()}
    losses = []
    for compiled in (False, True):
        model = make_model("bert").cuda()
        guide(model, "next:1 previous:1 first:1", weight=1.0, backend="triton")
        loss = (torch.compile(model, fullgraph=True) if compiled else model)(**inputs).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("backend", ["auto", "triton", "blocked"])
def test_a_model_trains(make_model, batch, backend):
    model = make_model("bert").cuda()
    handle = guide(model, "next:1 previous:1 first:1", weight=1.0, backend=backend)
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
