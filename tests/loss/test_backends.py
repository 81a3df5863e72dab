"""Every backend against the reference: output, rows of the loss and all gradients; and who can serve what."""

import dataclasses
import logging

import pytest
import torch
from calls import MAPPED, MASKS, PATTERNS, evaluate, make_call

from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.loss import backends, blocked, blocks, reference
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
def test_blocked_is_the_reference(length, mask, log_mass):
    call = make_call([*PATTERNS, MAPPED], mask, length=length, log_mass=log_mass)
    assert_same(evaluate(blocked, call), evaluate(reference, call))


@pytest.mark.parametrize("block", [1, 40, 9 * 9, 2 * 9 * 9 + 5, 10**6])
@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
def test_blocks_of_any_size_give_the_same(block, log_mass, monkeypatch):
    """Less than a row, some rows, a sequence, two and a bit, everything."""
    call = make_call([*PATTERNS, MAPPED], "pairs", n_batch=5, log_mass=log_mass)
    expected = evaluate(reference, call)
    monkeypatch.setattr(blocks, "BLOCK", block)
    assert_same(evaluate(blocked, call), expected)


@pytest.mark.parametrize("mask", MASKS)
def test_blocked_computes_where_its_tensors_are(mask, monkeypatch):
    """What it makes without naming a device is on another one here, as it would be beside a GPU."""
    call = make_call([*PATTERNS, MAPPED], mask, dropout=0.1)
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


@pytest.mark.parametrize("name", ["reference", "blocked"])
def test_statistics_alone_are_those_of_attend(name):
    """Those of `triton`, which has no float64, are in test_triton.py."""
    call = make_call(PATTERNS, "pairs")
    _, expected = BACKENDS[name].attend(call)
    with torch.no_grad():
        statistics = BACKENDS[name].statistics(call)
    for field in ("squares_BHQ", "mass_BHQ", "n_targets_BHQ"):
        torch.testing.assert_close(getattr(statistics, field), getattr(expected, field))


class TestDropout:
    """Of the output alone: the loss is that of the probabilities before it."""

    def rows(self, seed, dropout=0.4):
        torch.manual_seed(seed)
        return blocked.attend(make_call(PATTERNS, "keys", length=30, dropout=dropout))

    def test_heads_and_sequences_are_dropped_apart(self):
        torch.manual_seed(0)
        call = make_call(PATTERNS[:1], length=30, dropout=0.4, heads_each=2)
        with torch.no_grad():
            for tensor in (call.query_BHQD, call.key_BHKD, call.value_BHKD):
                tensor.copy_(tensor[:1, :1].expand_as(tensor))
        out, _ = blocked.attend(call)
        assert not torch.equal(out[0, 0], out[0, 1])
        assert not torch.equal(out[0, 0], out[1, 0])

    def test_rows_are_those_without(self):
        _, plain = self.rows(0, dropout=0.0)
        _, dropped = self.rows(0)
        assert torch.equal(plain.squares_BHQ, dropped.squares_BHQ)
        assert torch.equal(plain.mass_BHQ, dropped.mass_BHQ)

    def test_output_is_random_and_right_on_average(self):
        expected, _ = self.rows(0, dropout=0.0)
        outputs = torch.stack([self.rows(seed)[0] for seed in range(200)])
        assert torch.equal(outputs[0], self.rows(0)[0]), "the generator decides"
        assert not torch.equal(outputs[0], outputs[1])
        spread = outputs.std(0) / 200**0.5
        assert ((outputs.mean(0) - expected).abs() <= 5 * spread + 1e-9).all()

    @pytest.mark.parametrize("block", [70, 10**6])
    def test_gradients_by_finite_differences(self, block, monkeypatch):
        monkeypatch.setattr(blocks, "BLOCK", block)
        call = make_call(PATTERNS[:3], "keys", length=7, channels=4, dropout=0.5)

        def outputs(*tensors):
            torch.manual_seed(3)
            names = ("query_BHQD", "key_BHKD", "value_BHKD")
            for name, tensor in zip(names, tensors, strict=True):
                object.__setattr__(call, name, tensor)
            out, statistics = blocked.attend(call)
            return out, statistics.squares_BHQ, statistics.mass_BHQ

        assert torch.autograd.gradcheck(outputs, (call.query_BHQD, call.key_BHKD, call.value_BHKD))


def test_log_mass_survives_a_mass_that_underflows():
    """A target 200 nats below the maximum: e^-200 is 0 in float32, its logarithm is not."""
    for backend in (reference, blocked):
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
        assert BackendChoice().of(CPU).name == "blocked"
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
    def test_blocked_agrees_on_a_cpu(self, dtype):
        assert backends.agrees("blocked", "cpu", dtype)

    @pytest.mark.parametrize("name", ["blocked", "reference"])
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
            ("blocked", Case("mps", F32, 9), r"it is for cpu and cuda, not mps; reference can"),
            ("blocked", EAGER, r"runs eager attention.*; reference can"),
            ("blocked", Case("cpu", F32, 9, bias=True), r"adds a bias to its attention scores; reference can"),
            ("triton", CPU, r"it is for cuda, not cpu; reference, blocked can"),
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
        expected = f"unknown backend '{name}'; expected auto or one of reference, blocked, triton$"
        with pytest.raises(ConfigError, match=expected):
            BackendChoice(name)

    def test_the_choice_is_logged_once_and_explained(self, caplog):
        choice = BackendChoice()
        assert "no guided forward pass yet" in choice.explain()
        with caplog.at_level(logging.INFO, logger="attention_guidance"):
            choice.of(CPU)
            choice.of(CPU)
        assert [record.getMessage() for record in caplog.records] == [
            "guidance runs on backend 'blocked' (cpu, torch.float32)"
        ]
        lines = choice.explain().splitlines()
        assert lines[0] == "auto -> blocked (cpu, torch.float32, 128 keys)"
        assert "  reference: could serve" in lines
        assert "  triton: cannot serve: it is for cuda, not cpu" in lines
