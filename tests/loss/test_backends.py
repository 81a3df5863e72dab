"""Every backend against the reference: output, rows of the loss and all gradients; and who can serve what."""

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from calls import MAPPED, MASKS, PATTERNS, SOFT, evaluate, make_call, make_sequences
from torch._subclasses.fake_tensor import FakeTensorMode

from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.loss import backends, batched, blocked, blocks, reference
from attention_guidance.loss.backends import BACKENDS, BackendChoice, Case, able
from attention_guidance.patterns import Targets

F32 = torch.float32
CPU = Case("cpu", F32, 128)
EAGER = Case("cpu", F32, 128, "eager")
GPU = Case("cuda", torch.bfloat16, 128)


def assert_same(ours, theirs, tolerance=1e-11):
    for name, expected in theirs.items():
        assert torch.isfinite(ours[name]).all(), name
        assert (ours[name] - expected).norm() <= tolerance * (1 + expected.norm()), name


@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("length", [1, 2, 9, 63])
@pytest.mark.parametrize("backend", [blocked, batched], ids=["blocked", "batched"])
def test_is_the_reference(backend, length, mask, log_mass):
    call = make_call([*PATTERNS, MAPPED, SOFT], mask, length=length, log_mass=log_mass)
    assert_same(evaluate(backend, call), evaluate(reference, call))


@pytest.mark.parametrize("block", [1, 40, 9 * 9, 2 * 9 * 9 + 5, 10**6])
@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
@pytest.mark.parametrize("backend", [blocked, batched], ids=["blocked", "batched"])
def test_blocks_of_any_size_give_the_same(backend, block, log_mass, monkeypatch):
    """Less than a row, some rows, a sequence, two and a bit, everything (of one head, and of ten)."""
    call = make_call([*PATTERNS, MAPPED, SOFT], "pairs", n_batch=5, log_mass=log_mass)
    expected = evaluate(reference, call)
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(batched, "BLOCK", len(call.groups) * block)
    assert_same(evaluate(backend, call), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1), (2, 0, 1)])
def test_batched_computes_unguided_heads_too(order, dropout):
    """Of any heads, adjacent or not: output of all heads in the model's order, rows of the guided ones in theirs."""
    whole = make_call(PATTERNS[:1], "keys", n_batch=3, heads_each=4, dropout=dropout)
    patterns = [PATTERNS[number].targets(make_sequences(3, 9)) for number in range(len(order))]
    call = dataclasses.replace(whole, groups=tuple((targets, 1) for targets in patterns), heads=order)
    alone = dataclasses.replace(
        call, heads=None, dropout=0.0, **{
            name: getattr(call, name)[:, list(order)] for name in ("query_BHQD", "key_BHKD", "value_BHKD")
        }
    )  # fmt: skip
    torch.manual_seed(4)
    out, rows = batched.attend(call)
    expected, expected_rows = reference.attend(alone)
    everything = reference.attend(dataclasses.replace(whole, dropout=0.0))[0]
    for field in ("squares_BHQ", "mass_BHQ", "n_targets_BHQ"):
        torch.testing.assert_close(getattr(rows, field), getattr(expected_rows, field))
    if not dropout:
        torch.testing.assert_close(out, everything)
        torch.testing.assert_close(out[:, list(order)], expected)
    tensors = (call.query_BHQD, call.key_BHKD, call.value_BHKD)
    ours = torch.autograd.grad((rows.squares_BHQ + rows.mass_BHQ).sum(), tensors[:2])
    theirs = torch.autograd.grad((expected_rows.squares_BHQ + expected_rows.mass_BHQ).sum(), tensors[:2])
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


def test_batched_shares_its_plan_between_layers_of_a_pass():
    """A layer with other targets, another mask or other heads has one of its own."""
    call = make_call(PATTERNS[:2], "keys", shared={})
    others = [
        dataclasses.replace(call, mask=call.mask.clone()),
        dataclasses.replace(call, groups=make_call(PATTERNS[1:3]).groups),
        dataclasses.replace(call, heads=(1, 0)),
    ]
    _, first = batched.attend(call)
    assert len(call.shared) == 1
    assert batched.attend(call)[1].n_targets_BHQ is first.n_targets_BHQ
    for number, other in enumerate(others):
        assert_same(evaluate(batched, other), evaluate(batched, dataclasses.replace(other, shared=None)))
        assert len(call.shared) == number + 2


def test_memory_of_blocks_is_reused_and_not_shared_with_results():
    """The second call, of other sizes and in another thread, changes nothing of the first one."""
    calls = [make_call(PATTERNS[:2], "keys", length=length) for length in (9, 9, 5)]
    expected = [evaluate(reference, call) for call in calls]
    results = [batched.attend(call) for call in calls]
    with ThreadPoolExecutor(2) as threads:
        found = [*threads.map(lambda call: evaluate(batched, call), calls)]
    for ours, theirs, (out, _) in zip(found, expected, results, strict=True):
        assert_same(ours, theirs)
        assert (out - theirs["output"]).norm() < 1e-11


@pytest.mark.parametrize("mode", [torch.inference_mode, FakeTensorMode])
def test_memory_of_blocks_is_kept_apart_from_tensors_of_modes(mode):
    """Tensors that are made in inference mode cannot be changed outside of it, and fake ones hold no numbers."""
    call = make_call(PATTERNS[:2])
    expected = evaluate(reference, call)
    for _ in range(2):
        with mode():
            batched.attend(make_call(PATTERNS[:2]))
        assert_same(evaluate(batched, call), expected)


@pytest.mark.parametrize("mask", MASKS)
def test_blocked_computes_where_its_tensors_are(mask, monkeypatch):
    """What it makes without naming a device is on another one here, as it would be beside a GPU."""
    call = make_call([*PATTERNS, MAPPED, SOFT], mask, dropout=0.1)
    forward, backward = blocked._attend._init_fn, blocked._attend_backward._init_fn
    inputs = []
    monkeypatch.setattr(blocked, "_attend", lambda *given: inputs.extend(given) or forward(*given))
    with torch.no_grad(), torch.device("meta"):
        out, rows = blocked.attend(call)
        gradients = backward(out, rows.squares_BHQ, rows.mass_BHQ, *inputs)
    assert {result.device.type for result in (out, rows.squares_BHQ, rows.mass_BHQ, *gradients)} == {"cpu"}


def test_blocks_of_a_gpu_are_larger_and_draw_there(monkeypatch):
    """Of a device that computes nothing, as no GPU is here."""
    call = make_call(PATTERNS[:1], n_batch=1, length=2048)
    query, key = call.query_BHQD, call.key_BHKD
    assert (blocks.are_many(query, key), len([*blocks.blocks(query, key, None, call.groups)])) == (True, 4)
    query, key = query.to("meta"), key.to("meta")
    (block,) = blocks.blocks(query, key, None, ((Targets(call.groups[0][0].picks_BQP.to("meta")), 1),))
    assert not blocks.are_many(query, key)
    devices, generator = [], torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": devices.append(device) or generator)
    assert block.dropout(query, 0.5, torch.tensor(1), 0).is_meta
    assert devices == [query.device]


@pytest.mark.parametrize("name", ["reference", "batched", "blocked"])
def test_statistics_alone_are_those_of_attend(name):
    """Those of `triton`, which has no float64, are in test_triton.py."""
    call = make_call(PATTERNS, "pairs")
    _, expected = BACKENDS[name].attend(call)
    with torch.no_grad():
        statistics = BACKENDS[name].statistics(call)
    for field in ("squares_BHQ", "mass_BHQ", "n_targets_BHQ"):
        torch.testing.assert_close(getattr(statistics, field), getattr(expected, field))


@pytest.mark.parametrize("backend", [blocked, batched], ids=["blocked", "batched"])
class TestDropout:
    """Of the output alone: the loss is that of the probabilities before it."""

    def rows(self, backend, seed, dropout=0.4):
        torch.manual_seed(seed)
        return backend.attend(make_call(PATTERNS, "keys", length=30, dropout=dropout))

    def test_heads_and_sequences_are_dropped_apart(self, backend):
        torch.manual_seed(0)
        call = make_call(PATTERNS[:1], length=30, dropout=0.4, heads_each=2)
        with torch.no_grad():
            for tensor in (call.query_BHQD, call.key_BHKD, call.value_BHKD):
                tensor.copy_(tensor[:1, :1].expand_as(tensor))
        out, _ = backend.attend(call)
        assert not torch.equal(out[0, 0], out[0, 1])
        assert not torch.equal(out[0, 0], out[1, 0])

    def test_rows_are_those_without(self, backend):
        _, plain = self.rows(backend, 0, dropout=0.0)
        _, dropped = self.rows(backend, 0)
        assert torch.equal(plain.squares_BHQ, dropped.squares_BHQ)
        assert torch.equal(plain.mass_BHQ, dropped.mass_BHQ)

    def test_output_is_random_and_right_on_average(self, backend):
        expected, _ = self.rows(backend, 0, dropout=0.0)
        outputs = torch.stack([self.rows(backend, seed)[0] for seed in range(200)])
        assert torch.equal(outputs[0], self.rows(backend, 0)[0]), "the generator decides"
        assert not torch.equal(outputs[0], outputs[1])
        spread = outputs.std(0) / 200**0.5
        assert ((outputs.mean(0) - expected).abs() <= 5 * spread + 1e-9).all()

    @pytest.mark.parametrize("block", [70, 10**6])
    def test_gradients_by_finite_differences(self, backend, block, monkeypatch):
        monkeypatch.setattr(blocks, "BLOCK", block)
        monkeypatch.setattr(batched, "BLOCK", block)
        call = make_call(PATTERNS[:3], "keys", length=7, channels=4, dropout=0.5)

        def outputs(*tensors):
            torch.manual_seed(3)
            names = ("query_BHQD", "key_BHKD", "value_BHKD")
            for name, tensor in zip(names, tensors, strict=True):
                object.__setattr__(call, name, tensor)
            out, statistics = backend.attend(call)
            return out, statistics.squares_BHQ, statistics.mass_BHQ

        assert torch.autograd.gradcheck(outputs, (call.query_BHQD, call.key_BHKD, call.value_BHKD))


def test_log_mass_survives_a_mass_that_underflows():
    """A target 200 nats below the maximum: e^-200 is 0 in float32, its logarithm is not."""
    for backend in (reference, blocked, batched):
        call = make_call(PATTERNS[:1], length=4, dtype=torch.float32, log_mass=True)
        with torch.no_grad():
            call.query_BHQD[:] = 0
            call.query_BHQD[..., 0] = 20
            call.key_BHKD[:] = 0
            call.key_BHKD[:, :, 1, 0] = -20
        found = evaluate(backend, call)
        expected = 200 * 2 * 8**-0.5 + torch.tensor(3.0).log()
        assert found["rows"][1, 0, 0].item() == pytest.approx(expected.item(), rel=1e-5)
        assert torch.isfinite(found["query"]).all()
        assert found["query"].abs().max() > 1


class TestWhoServesWhat:
    @pytest.fixture(autouse=True)
    def as_for_users(self, monkeypatch):
        """With Triton, but without its interpreter, in which kernels run anywhere."""
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(backends.triton, "installed", lambda: True)

    def test_auto_prefers_the_fast_one(self):
        assert BackendChoice().of(CPU).name == "batched"
        assert BackendChoice().of(dataclasses.replace(CPU, length=257)).name == "blocked"
        assert BackendChoice().of(EAGER).name == "reference"
        assert BackendChoice().of(Case("mps", torch.float32, 9)).name == "reference"

    def test_auto_takes_kernels_of_a_gpu_only_where_they_agree(self, monkeypatch):
        for right, name in ((["triton", "blocked"], "triton"), (["blocked"], "blocked"), ([], "reference")):
            monkeypatch.setattr(backends, "agrees", lambda name, *case, right=right: name in right)
            assert BackendChoice().of(GPU).name == name

    def test_auto_passes_over_what_refuses_a_case_of_a_gpu(self, monkeypatch):
        monkeypatch.setattr(backends, "agrees", lambda *case: True)
        assert BackendChoice().of(Case("cuda", torch.float64, 9)).name == "blocked"
        assert BackendChoice().of(Case("cuda", F32, 9, mapped=("tree",))).name == "blocked"
        assert BackendChoice().of(Case("cuda", F32, 9, "eager")).name == "reference"
        monkeypatch.setattr(backends.triton, "installed", lambda: False)
        assert BackendChoice().of(GPU).name == "blocked"

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("name", ["batched", "blocked"])
    def test_agrees_on_a_cpu(self, name, dtype):
        assert backends.agrees(name, "cpu", dtype)

    @pytest.mark.parametrize("name", ["batched", "blocked", "reference"])
    def test_the_trial_leaves_every_random_generator_alone(self, name, monkeypatch):
        """That of the CPU by its state; those of GPUs, which need not be here, by the calls that seed them."""
        seeded = []
        for device in (torch.cuda, torch.mps, torch.xpu):
            for call in ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state"):
                if hasattr(device, call):
                    monkeypatch.setattr(
                        device, call, lambda *args, what=f"{device.__name__}.{call}": seeded.append(what)
                    )
        state = torch.get_rng_state()
        backends._try_out(BACKENDS[name], "cpu", torch.float32, 16)
        assert seeded == []
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_trial_is_the_same_every_time(self):
        first, second = (backends._try_out(BACKENDS["reference"], "cpu", torch.float32, 16) for _ in range(2))
        assert all(map(torch.equal, first, second))

    @pytest.mark.parametrize("field", ["attend", "raises"])
    def test_disagreement_is_seen_and_told(self, field, monkeypatch, caplog):
        def attend(call):
            if field == "raises":
                raise RuntimeError("no such kernel")
            out, statistics = reference.attend(call)
            return out, dataclasses.replace(statistics, mass_BHQ=statistics.mass_BHQ.detach())

        monkeypatch.setitem(BACKENDS, "blocked", dataclasses.replace(BACKENDS["blocked"], attend=attend))
        backends.agrees.cache_clear()
        assert not backends.agrees("blocked", "cpu", torch.float32)
        backends.agrees.cache_clear()
        assert ("no such kernel" if field == "raises" else "is off by") in caplog.text

    @pytest.mark.parametrize(
        ("name", "case", "reason"),
        [
            ("batched", Case("cuda", F32, 9), r"it is for cpu, not cuda; reference, blocked, triton can"),
            ("batched", Case("cpu", F32, 257), r"for at most 256 tokens \(here: 257\); reference, blocked can"),
            ("batched", EAGER, r"runs eager attention.*; reference can"),
            ("blocked", Case("mps", F32, 9), r"it is for cpu and cuda, not mps; reference can"),
            ("blocked", EAGER, r"runs eager attention.*; reference can"),
            ("blocked", Case("cpu", F32, 9, bias=True), r"adds a bias to its attention scores; reference can"),
            ("triton", CPU, r"it is for cuda, not cpu; reference, batched, blocked can"),
            ("triton", Case("cuda", torch.float64, 9), r"kernels do not support float64; reference, blocked can"),
            ("triton", Case("cuda", F32, 9, channels=160), r"at most 128 channels .* have 160\); reference, blocked"),
            ("triton", Case("cuda", F32, 50000), r"at most 46,340 tokens \(here: 50,000\); reference, blocked"),
            ("triton", Case("cuda", F32, 9, mapped=("tree",)), r"targets of tree are a map.*; reference, blocked can"),
            ("triton", Case("cuda", F32, 9, bias=True), r"adds a bias.*; reference can"),
        ],
    )  # fmt: skip
    def test_an_error_names_those_that_can(self, name, case, reason):
        with pytest.raises(AttachError, match=rf"backend '{name}' cannot guide this attention: .*{reason}"):
            BackendChoice(name).of(case)

    def test_reference_serves_all(self):
        for case in (CPU, EAGER, GPU, Case("mps", torch.float16, 1, "eager", True, ("tree",))):
            assert "reference" in able(case)

    @pytest.mark.parametrize("name", ["fast", "flash", "flex"])
    def test_unknown(self, name):
        expected = f"unknown backend '{name}'; expected auto or one of reference, batched, blocked, triton$"
        with pytest.raises(ConfigError, match=expected):
            BackendChoice(name)

    def test_the_choice_is_logged_once_and_explained(self, caplog):
        choice = BackendChoice()
        assert "no guided forward pass yet" in choice.explain()
        with caplog.at_level(logging.INFO, logger="attention_guidance"):
            choice.of(CPU)
            choice.of(CPU)
        assert [record.getMessage() for record in caplog.records] == [
            "guidance runs on backend 'batched' (cpu, torch.float32)"
        ]
        lines = choice.explain().splitlines()
        assert lines[0] == "auto -> batched (cpu, torch.float32, 128 keys)"
        assert "  reference: could serve" in lines
        assert "  blocked: could serve" in lines
        assert "  triton: cannot serve: it is for cuda, not cpu" in lines
