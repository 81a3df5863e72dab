"""The kernels in Triton's interpreter against the reference in float64: values and every gradient.

The same on a GPU, at larger sizes, is in test_gpu.py.
"""

import dataclasses

import pytest
import torch
from calls import MASKS, PATTERNS, evaluate, in_double, make_call, sharpened
from numerics import assert_as_good_as
from test_numerics import Eager
from torch.nn.functional import scaled_dot_product_attention

from attention_guidance.loss import reference
from attention_guidance.loss.call import AttentionCall
from attention_guidance.patterns import Offset, Sequences, TokenClass

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("with a GPU the kernels are compiled, not interpreted: test_gpu.py", allow_module_level=True)

from triton_interpreter import exact_bfloat16, small_tiles  # noqa: F401

from attention_guidance.loss import triton

# The interpreter divides by zero where the kernels then take the other value.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
F32 = torch.float32
DTYPES = pytest.mark.parametrize("dtype", [F32, torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])


class Sdpa:
    """The output as torch's own kernel makes it."""

    @staticmethod
    def attend(call):
        tensors = call.query_BHQD, call.key_BHKD, call.value_BHKD
        out = scaled_dot_product_attention(*tensors, call.mask, scale=call.scale)
        return out, reference.attend(call)[1]


def assert_is_reference(call, tolerance=3e-6):
    expected, found = evaluate(reference, in_double(call)), evaluate(triton, call)
    for name, value in expected.items():
        assert torch.isfinite(found[name]).all(), name
        assert (found[name] - value).norm() <= tolerance * (1 + value.norm()), name


@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 2, 9, 37])
def test_every_pattern_and_mask(length, mask, log_mass, small_tiles):  # noqa: F811
    assert_is_reference(make_call(PATTERNS, mask, length=length, dtype=F32, log_mass=log_mass))


@pytest.mark.parametrize("channels", [8, 32, 64, 96, 128])
def test_head_sizes_with_the_tiles_of_gpus(channels):
    assert_is_reference(make_call([PATTERNS[0], PATTERNS[6]], "keys", length=130, channels=channels, dtype=F32))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_each_pattern_alone(pattern, small_tiles):  # noqa: F811
    """Without picks, without classes, and more picks or classes than the others have."""
    assert_is_reference(make_call([pattern], length=40, dtype=F32))


def packed(length):
    """Documents of ten tokens in one sequence, each seen by itself only."""
    documents = (torch.arange(length) // 10).expand(2, length)
    sequences = Sequences(
        torch.ones(2, length, dtype=torch.bool), torch.randint(0, 9, (2, length)), documents_BT=documents
    )
    return sequences, (documents[:, :, None] == documents[:, None])[:, None]


def test_packed_sequences(small_tiles):  # noqa: F811
    """Whole tiles are hidden, and classes are those of a document."""
    sequences, mask = packed(60)
    call = make_call([Offset(1), TokenClass("c", (3, 4))], length=60, dtype=F32)
    patterns = [Offset(1), TokenClass("c", (3, 4)) | Offset(-1)]
    groups = tuple((pattern.targets(sequences), 1) for pattern in patterns)
    for shown in (None, mask):
        assert_is_reference(dataclasses.replace(call, groups=groups, mask=shown))


def test_a_mask_of_keys_that_is_spread_over_queries(small_tiles):  # noqa: F811
    call = make_call(PATTERNS[:2], "keys", length=40, dtype=F32)
    assert_is_reference(dataclasses.replace(call, mask=call.mask.expand(-1, -1, 40, -1)))


def test_one_mask_for_all_sequences(small_tiles):  # noqa: F811
    call = make_call(PATTERNS[:2], "window", length=40, dtype=F32)
    assert_is_reference(dataclasses.replace(call, mask=call.mask[1:]))


def test_other_keys_than_queries(small_tiles):  # noqa: F811
    """More keys than queries, and so tables of tiles that are not square."""
    call = make_call(PATTERNS[:2], length=50, dtype=F32)
    queries = call.query_BHQD.detach()[:, :, :20].clone().requires_grad_()
    groups = tuple(
        (dataclasses.replace(targets, picks_BQP=targets.picks_BQP[:, :20]), n_heads) for targets, n_heads in call.groups
    )
    call = dataclasses.replace(call, query_BHQD=queries, groups=groups)
    out, rows = triton.attend(call)
    scores = queries.double() @ call.key_BHKD.double().mT * call.scale
    torch.testing.assert_close(out, (scores.softmax(-1) @ call.value_BHKD.double()).float())
    torch.testing.assert_close(rows.squares_BHQ, scores.softmax(-1).square().sum(-1).float())


class TestAmongOtherHeads:
    """All heads of a layer in one launch, in the memory of projections."""

    HEADS = (5, 0, 2)

    def call(self, shared=1, **more):
        guided = make_call(PATTERNS[:2], "keys", length=40, dtype=F32, **more)
        generator = torch.Generator().manual_seed(1)

        def drawn(n_heads):
            tensor = torch.randn(2, 40, n_heads, 8, generator=generator)
            return tensor.transpose(1, 2).requires_grad_()

        targets = guided.groups[0][0], guided.groups[1][0]
        return dataclasses.replace(
            guided, query_BHQD=drawn(6), key_BHKD=drawn(6 // shared), value_BHKD=drawn(6 // shared), heads=self.HEADS,
            groups=((targets[0], 2), (targets[1], 1)),
        )  # fmt: skip

    def apart(self, call):
        """By the reference: the guided heads' statistics, and the output of all."""
        shared = call.query_BHQD.shape[1] // call.key_BHKD.shape[1]
        key, value = (t.repeat_interleave(shared, 1) for t in (call.key_BHKD, call.value_BHKD))
        whole = dataclasses.replace(call, key_BHKD=key, value_BHKD=value, heads=None)
        heads = list(self.HEADS)
        _, rows = reference.attend(
            dataclasses.replace(
                whole, query_BHQD=whole.query_BHQD[:, heads], key_BHKD=key[:, heads], value_BHKD=value[:, heads]
            )
        )
        out, _ = reference.attend(dataclasses.replace(whole, groups=((call.groups[0][0], 6),)))
        return out, rows

    @pytest.mark.parametrize("shared", [1, 3])
    @pytest.mark.parametrize("log_mass", [False, True])
    def test_output_statistics_and_gradients(self, shared, log_mass, small_tiles):  # noqa: F811
        results = {}
        for name in ("triton", "reference"):
            call = self.call(shared, log_mass=log_mass)
            if name == "reference":
                call = in_double(call)
            out, rows = triton.attend(call) if name == "triton" else self.apart(call)
            total = (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum() + (
                rows.squares_BHQ * torch.linspace(-1, 2, rows.squares_BHQ.numel()).view(rows.squares_BHQ.shape)
            ).sum()
            total = total - rows.mass_BHQ.square().sum()
            gradients = torch.autograd.grad(total, (call.query_BHQD, call.key_BHKD, call.value_BHKD))
            results[name] = out, rows.squares_BHQ, rows.mass_BHQ, rows.n_targets_BHQ, *gradients
        for ours, theirs in zip(*results.values(), strict=True):
            assert (ours - theirs).norm() <= 3e-6 * (1 + theirs.norm())

    def test_output_is_laid_out_as_models_want_it(self):
        out, _ = triton.attend(self.call())
        assert out.transpose(1, 2).is_contiguous()

    def test_an_unguided_head_needs_no_gradient_of_statistics(self):
        """Its numbers do not change when other heads are guided."""
        call = self.call()
        out, _ = triton.attend(call)
        alone, _ = triton.attend(dataclasses.replace(call, heads=(5,), groups=((call.groups[0][0], 1),)))
        for head in (1, 3, 4):
            assert torch.equal(out[:, head], alone[:, head])

    def test_the_layers_of_a_pass_share_what_was_prepared(self, monkeypatch):
        made = []
        prepare = triton.prepare
        monkeypatch.setattr(triton, "prepare", lambda *given: made.append(1) or prepare(*given))
        call = dataclasses.replace(self.call(), shared={})
        first, second = triton.attend(call), triton.attend(call)
        assert torch.equal(first[0], second[0])
        assert len(made) == 1
        triton.attend(dataclasses.replace(call, mask=call.mask.clone()))
        assert len(made) == 2, "another mask"


def test_statistics_alone(small_tiles):  # noqa: F811
    for log_mass in (False, True):
        call = make_call(PATTERNS, "pairs", length=40, dtype=F32, log_mass=log_mass)
        _, expected = triton.attend(call)
        found = triton.statistics(dataclasses.replace(call, dropout=0.5))
        for field in ("squares_BHQ", "mass_BHQ", "n_targets_BHQ"):
            assert torch.equal(getattr(found, field), getattr(expected, field).detach())
            assert not getattr(found, field).requires_grad


def test_memory_that_nothing_wrote_is_not_read(small_tiles, monkeypatch):  # noqa: F811
    """Results come from `torch.empty`: here that is full of NaN."""
    new_empty = torch.Tensor.new_empty

    def poisoned(tensor, *size, **more):
        made = new_empty(tensor, *size, **more)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_is_reference(make_call(PATTERNS, "pairs", length=37, dtype=F32))


class TestLowPrecision:
    """No further from float64 than twice what eager maps are."""

    @DTYPES
    @pytest.mark.parametrize(("length", "mask"), [(2, "none"), (63, "keys"), (100, "none"), (128, "keys")])
    @pytest.mark.parametrize("sharpness", [0.2, 2.0])
    def test_no_worse_than_twice_eager_maps(self, dtype, length, mask, sharpness, exact_bfloat16):  # noqa: F811
        patterns = [PATTERNS[0], PATTERNS[3], PATTERNS[6]]
        call = sharpened(make_call(patterns, mask, length=length, channels=64, dtype=dtype), sharpness)
        truth = evaluate(reference, in_double(call))
        assert_as_good_as(evaluate(triton, call), evaluate(Eager, call), truth)

    @DTYPES
    @pytest.mark.parametrize("length", [63, 128])
    @pytest.mark.parametrize("of", ["rows", "output"])
    def test_where_a_head_follows_its_pattern(self, dtype, length, of, exact_bfloat16):  # noqa: F811
        """All but nothing is left of the gradients: guidance's still obey the rule.

        Those of the output obey it against the kernel of SDPA, which takes ``delta`` from the rounded output as flash
        attention does; eager maps are right to the last digit there.
        """
        call = sharpened(make_call(PATTERNS[:1], "keys", length=length, channels=64, dtype=dtype), "on target")
        truth = evaluate(reference, in_double(call), of)
        plain = evaluate(Eager if of == "rows" else Sdpa, call, of)
        assert_as_good_as(evaluate(triton, call, of), plain, truth)

    @DTYPES
    @pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
    def test_finite_where_attention_is(self, dtype, log_mass, exact_bfloat16, small_tiles):  # noqa: F811
        """Scores of thousands, rows that see nothing, rows without a target, a sequence that is all padding."""
        call = make_call(PATTERNS, "pairs", n_batch=3, length=40, dtype=dtype, log_mass=log_mass)
        with torch.no_grad():
            call.query_BHQD.mul_(60)
            call.key_BHKD.mul_(60)
            call.mask[2] = False
        found = evaluate(triton, call)
        for name, value in found.items():
            assert torch.isfinite(value).all(), name
        assert not found["output"][2].any()

    def test_log_mass_survives_a_mass_that_underflows(self):
        """A target 200 nats below the maximum: e^-200 is 0 in float32, its logarithm is not."""
        call = make_call(PATTERNS[:1], length=4, dtype=F32, log_mass=True)
        with torch.no_grad():
            call.query_BHQD[:] = 0
            call.query_BHQD[..., 0] = 20
            call.key_BHKD[:] = 0
            call.key_BHKD[:, :, 1, 0] = -20
        found = evaluate(triton, call)
        expected = 200 * 2 * 8**-0.5 + torch.tensor(3.0).log()
        assert found["rows"][1, 0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.isfinite(found["query"]).all()
        assert found["query"].abs().max() > 1

    def test_tensor_cores_round_float32_only_where_the_user_lets_them(self, monkeypatch):
        from attention_guidance.loss.triton.launch import _precision

        assert _precision(F32) == "ieee"
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
        assert _precision(F32) == "tf32"
        assert _precision(torch.bfloat16) == "ieee"


class TestDropout:
    """Of the output alone, and the same in every kernel."""

    def call(self, dropout=0.4, **more) -> AttentionCall:
        return make_call(PATTERNS[:2], "keys", length=40, dtype=F32, dropout=dropout, **more)

    def attend(self, seed, dropout=0.4):
        torch.manual_seed(seed)
        return triton.attend(self.call(dropout))

    def test_rows_are_those_without(self, small_tiles):  # noqa: F811
        (_, plain), (_, dropped) = self.attend(0, 0.0), self.attend(0)
        assert torch.equal(plain.squares_BHQ, dropped.squares_BHQ)
        assert torch.equal(plain.mass_BHQ, dropped.mass_BHQ)

    def test_output_is_random_and_right_on_average(self):
        expected, _ = self.attend(0, 0.0)
        outputs = torch.stack([self.attend(seed)[0] for seed in range(40)])
        assert torch.equal(outputs[0], self.attend(0)[0]), "the generator decides"
        assert not torch.equal(outputs[0], outputs[1])
        spread = outputs.std(0) / 40**0.5
        assert ((outputs.mean(0) - expected).abs() <= 5 * spread + 1e-6).all()

    def test_heads_and_sequences_are_dropped_apart(self):
        torch.manual_seed(0)
        call = make_call(PATTERNS[:1], length=30, dropout=0.4, heads_each=2, dtype=F32)
        with torch.no_grad():
            for tensor in (call.query_BHQD, call.key_BHKD, call.value_BHKD):
                tensor.copy_(tensor[:1, :1].expand_as(tensor))
        out, _ = triton.attend(call)
        assert not torch.equal(out[0, 0], out[0, 1])
        assert not torch.equal(out[0, 0], out[1, 0])

    def test_gradients_are_of_what_was_kept(self, small_tiles):  # noqa: F811
        """What was kept is read off a pass whose values are unit vectors; the gradients follow by autograd."""
        call = self.call(channels=40)
        unit = torch.eye(40).expand(2, 2, 40, 40)
        torch.manual_seed(7)
        out, _ = triton.attend(dataclasses.replace(call, value_BHKD=unit.clone()))
        plain, _ = triton.attend(dataclasses.replace(call, value_BHKD=unit.clone(), dropout=0.0))
        factor = torch.where(plain > 0, out / plain, 0.0).detach()
        assert ((factor.sub(1 / 0.6).abs() < 1e-4) | (factor == 0)).all()
        torch.manual_seed(7)
        ours = evaluate(triton, call)

        class Kept:
            @staticmethod
            def attend(call):
                scores = (call.query_BHQD @ call.key_BHKD.mT * call.scale).masked_fill(~call.mask, -torch.inf)
                _, rows = reference.attend(dataclasses.replace(call, dropout=0.0))
                return (scores.softmax(-1) * factor) @ call.value_BHKD, rows

        theirs = evaluate(Kept, in_double(call))
        for name in ("output", "rows", "query", "key", "value"):
            assert (ours[name] - theirs[name]).norm() <= 1e-5 * (1 + theirs[name].norm()), name
