"""The benchmark of the kernels, at the size of a toy in Triton's interpreter; nothing is timed that is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.overrides import TorchFunctionMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COMMITTED = BENCHMARKS / "results" / "kernel.jsonl"
KEYS = {
    "schema_version", "kind", "date", "versions", "device", "processor", "capability", "settings", "length",
    "channels", "dtype", "tolerance", "arms", "skipped", "rounds", "ceiling", "guided_over_unguided", "dry_run",
}  # fmt: skip
PASSES = ("forward", "backward", "both")
FIGURES = {
    "p20_ms", "p50_ms", "p80_ms", "ratio", "ratio_low", "ratio_high", "launch_ms", "host_bound", "tflops", "of_ceiling",
}  # fmt: skip
TIMED = {"sdpa-flash", "triton-unguided", "triton-guided"}
pytest.importorskip("triton")


@pytest.fixture
def kernel() -> ModuleType:
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernels are compiled, not interpreted")
    from benchmarks.kernel import check, speed

    check._errors_at.cache_clear()
    yield speed
    check._errors_at.cache_clear()


@pytest.fixture
def toy(kernel):
    return kernel.Setting(batch=1, heads=4, length=32, channels=16, dtype="fp32", device="cpu")


@pytest.fixture
def run(kernel, monkeypatch, capsys):
    """Run the benchmark in this process; gives its exit code and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["speed", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            kernel.main()
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr()

    return run


def run_apart(*arguments):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel.speed", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=BENCHMARKS.parent)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_dry_run_goes_through_everything(tmp_path, run):
    results = tmp_path / "kernel.jsonl"
    done = run_apart("--dry-run", "--results", results)
    assert done.returncode == 0, done.stderr
    records = read(results)
    assert [record["length"] for record in records] == [32, 64]
    for record in records:
        assert record.keys() == KEYS
        assert (record["kind"], record["dry_run"], record["dtype"], record["channels"]) == ("kernel", True, "fp32", 32)
        assert record["settings"]["guided"] == "next:1 previous:1 first:1"
        assert record["settings"]["batch"] * record["length"] == 64
        assert {"triton", "torch", "cuda"} <= record["versions"].keys()
        assert record["rounds"] == dict.fromkeys(PASSES, 2)
        assert record["skipped"].keys() == {"flex"}
        assert "does not support backward on CPU" in record["skipped"]["flex"]
        assert record["arms"].keys() == TIMED
        for name, arm in record["arms"].items():
            assert arm.keys() == {"errors", "peak_mib", "memory_ratio", *PASSES}
            assert ("gradient of query from rows" in arm["errors"]) == (name == "triton-guided")
            assert max(arm["errors"].values()) < record["tolerance"]
            for part in PASSES:
                found = arm[part]
                assert found.keys() == FIGURES
                assert 0 < found["p20_ms"] <= found["p50_ms"] <= found["p80_ms"]
                assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
                assert found["of_ceiling"] == pytest.approx(found["tflops"] / record["ceiling"]["tflops"])
        assert record["guided_over_unguided"].keys() == set(PASSES)
    # 4 B H T^2 D, and 2.5 times that.
    forward, backward = (records[0]["arms"]["triton-guided"][part] for part in PASSES[:2])
    assert forward["tflops"] * forward["p50_ms"] * 1e9 == pytest.approx(4 * 2 * 6 * 32 * 32 * 32)
    assert backward["tflops"] * backward["p50_ms"] * 1e9 == pytest.approx(2.5 * 4 * 2 * 6 * 32 * 32 * 32)

    code, printed = run("--show", "--results", results)
    assert code == 0
    assert "| fp32 | 2 x 6 | 32 | 32 | triton-guided | both |" in printed.out
    assert "| over unguided, same kernel |" in printed.out
    assert "not judged" in printed.out, "the interpreter's times are no verdict"
    assert "skipped flex: " in printed.out
    of_tables = [block for block in printed.out.split("\n\n") if block.startswith("|")]
    assert len(of_tables) == 2
    for table in of_tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run_apart("--results", tmp_path / "kernel.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no NVIDIA GPU here; --dry-run goes through everything")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_is_kept_apart(run, tmp_path, monkeypatch):
    before = COMMITTED.exists()
    code, printed = run("--dry-run", "--results", COMMITTED)
    assert code == 2
    assert printed.err.startswith("error: a dry run measures nothing that is kept beside real results")
    assert run("--dry-run", "--results", BENCHMARKS / "results" / ".." / "results" / "kernel.jsonl")[0] == 2
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"dry_run": True}) + "\n")
    code, printed = run("--keep", other)
    assert code == 2
    assert "results of a dry run are no measurement" in printed.err
    assert COMMITTED.exists() == before
    # Without a file it only prints.
    monkeypatch.chdir(tmp_path)
    code, printed = run("--dry-run", "--lengths", 16, "--tokens", 16, "--channels", 16, "--heads", 4)
    assert code == 0
    assert "over unguided, same kernel" in printed.out
    assert [path.name for path in tmp_path.iterdir()] == ["other.jsonl"]
    assert COMMITTED.exists() == before


def test_show_and_keep(run, tmp_path):
    there, here = tmp_path / "there.jsonl", tmp_path / "here.jsonl"
    code, printed = run("--show", "--results", here)
    assert code == 0
    assert printed.out.strip() == "not yet measured: no results from an NVIDIA GPU are kept"
    run("--dry-run", "--lengths", 16, "--tokens", 16, "--channels", 16, "--heads", 4, "--results", there)
    code, printed = run("--keep", there, there, "--results", here)
    assert code == 0
    assert len(read(here)) == 2
    assert printed.out.count("| triton-guided | both |") == 2


def test_the_budget_ends_it_between_sizes(run, kernel, tmp_path, monkeypatch):
    """The clock goes on by three seconds a look: one size is measured, in what is left for it, and no other."""
    looks = iter(range(0, 99, 3))
    monkeypatch.setattr(kernel.time, "monotonic", lambda: next(looks))
    given = []
    record = {"arms": {"a": 1}}
    monkeypatch.setattr(kernel, "measure", lambda setting, rounds, seconds: given.append(seconds) or record)
    monkeypatch.setattr(kernel, "report", lambda record: "told")
    results = tmp_path / "kernel.jsonl"
    code, printed = run("--dry-run", "--budget", 5, "--results", results)
    assert code == 0
    assert given == [2]
    assert read(results) == [{"arms": {"a": 1}, "dry_run": True}]
    assert "stopped before T=64, 32 channels, fp32: 5 seconds are over" in printed.out


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("output", "output off by 1.0e-02"),
        ("mass", "mass off by 1.0e-02"),
        ("no gradient of guidance", "gradient of query from rows off by 1.0e+00"),
        ("no number", "output off by nan"),
    ],
)
def test_what_is_wrong_is_not_timed(kernel, toy, monkeypatch, capsys, what, found):
    from benchmarks.kernel import arms, measure

    attend = arms.triton.attend

    def wrong(call):
        out, rows = attend(call)
        if not call.groups:
            return out, rows
        if what == "mass":
            return out, dataclasses.replace(rows, mass_BHQ=rows.mass_BHQ * 1.01)
        if what == "no gradient of guidance":
            nothing = 0 * call.query_BHQD.sum() + 0 * call.key_BHKD.sum()
            return out, dataclasses.replace(
                rows, squares_BHQ=rows.squares_BHQ.detach() + nothing, mass_BHQ=rows.mass_BHQ.detach()
            )
        return out * (1.01 if what == "output" else float("nan")), rows

    made = []

    class Arm(arms.Arm):
        def __init__(self, attend, *rest):
            made.append(attend)
            super().__init__(attend, *rest)

    monkeypatch.setattr(arms.triton, "attend", wrong)
    monkeypatch.setattr(measure, "Arm", Arm)
    monkeypatch.setattr(measure, "ARMS", ("sdpa-flash", "triton-unguided", "triton-guided"))
    record = kernel.measure(toy, 2, 60)
    assert record["arms"].keys() == {"sdpa-flash", "triton-unguided"}
    assert len(set(made)) == 2, "not even tried at size"
    reason = record["skipped"]["triton-guided"]
    assert reason.startswith("wrong: ")
    assert found in reason
    assert reason.endswith("at most 1e-03 is rounding")
    assert record["guided_over_unguided"] == {}
    assert f"skipped triton-guided at T=32, 16 channels, fp32: {reason}" in capsys.readouterr().out


def test_what_is_timed_has_the_loss_of_guidance(kernel, toy):
    """The mean over rows of each guided head, summed and weighted; and its gradient."""
    from benchmarks.kernel import arms, check

    tensors = arms.Tensors(toy)
    arm = arms.Arm(arms.way("triton-guided", toy), "both", toy, tensors)
    outputs = arm._forward()
    exact = tensors.exact()
    _, statistics = check._truth(toy, guided=True)(*exact.inputs)
    rows = check.row_losses(statistics, "squared_error")
    # The last query has no next token, and the first none before it.
    counts = torch.tensor([31, 31, 32])
    loss = 0.1 * (rows.where(statistics.n_targets_BHQ > 0, 0.0).sum((0, 2)) / counts).sum()
    assert outputs[1].item() == pytest.approx(loss.item(), rel=1e-5)
    tensors.grad_out.zero_()
    query, key, _ = arm._backward(outputs)
    for ours, theirs in zip((query, key), torch.autograd.grad(loss, exact.inputs[:2]), strict=True):
        assert (ours.double() - theirs).norm() < 1e-4 * theirs.norm()


def test_what_does_not_run_is_told(kernel, toy, monkeypatch):
    """Without SDPA's flash kernel there is nothing to compare with, and our own are timed all the same."""
    from triton.errors import TritonError

    from benchmarks.kernel import arms, measure

    def fails(*tensors):
        raise ValueError("no such kernel\nat all") from TritonError("not on this GPU")

    monkeypatch.setattr(arms, "_sdpa_flash", fails)
    monkeypatch.setattr(measure, "ARMS", ("sdpa-flash", "triton-unguided", "triton-guided"))
    record = kernel.measure(toy, 2, 60) | {"dry_run": False}
    assert record["skipped"] == {"sdpa-flash": "TritonError: not on this GPU"}
    assert record["arms"].keys() == {"triton-unguided", "triton-guided"}
    assert record["arms"]["triton-guided"]["both"].keys() == FIGURES - {"ratio", "ratio_low", "ratio_high"}
    told = kernel.report(record)
    assert "over unguided, same kernel: " in told
    assert "<= 1.03 missed by" in told
    assert "over SDPA flash: " not in told


class OnCpu(TorchFunctionMode):
    """Takes `cuda` for `cpu`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args, kwargs = ["cpu" if value == "cuda" else value for value in args], dict(kwargs or {})
        if str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@pytest.fixture
def pretended_gpu(kernel, monkeypatch):
    """A GPU of which nothing is there but its clock: it begins late, and shows two milliseconds for everything."""
    sleeps = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.recorded = True

        def query(self):
            return sleeps[-1] < 2**22

        def synchronize(self):
            assert self.recorded

        def elapsed_time(self, end):
            return 2.0

    memory = {"memory_allocated": 2**20, "max_memory_allocated": 3 * 2**20}
    for name, value in memory.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", sleeps.append)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretended")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(kernel.backend, "interpreted", lambda: False)
    from benchmarks.kernel import check, measure

    monkeypatch.setitem(check._LENGTHS, "cuda", (24, 32))
    monkeypatch.setitem(measure._CEILING, "cuda", 32)
    monkeypatch.setitem(measure._WARM_UP, "cuda", 1)
    measure.ceiling.cache_clear()
    with OnCpu():
        yield sleeps
    measure.ceiling.cache_clear()


def test_the_way_of_a_gpu(run, pretended_gpu, tmp_path):
    results = tmp_path / "kernel.jsonl"
    size = ("--lengths", 32, "--tokens", 32, "--channels", 16, "--heads", 4, "--rounds", 2)
    code, printed = run(*size, "--dtypes", "fp32", "--results", results)
    assert code == 0, printed.err
    (record,) = read(results)
    assert record.keys() == KEYS
    assert (record["device"], record["capability"], record["dry_run"]) == ("Pretended", "9.0", False)
    assert record["settings"]["device"] == "cuda"
    assert record["arms"].keys() == TIMED
    for arm in record["arms"].values():
        assert (arm["peak_mib"], arm["memory_ratio"]) == (2, 1)
        for part in PASSES:
            # A first look in warming up, one in each of the two rounds.
            assert (arm[part]["p50_ms"], arm[part]["ratio"], arm[part]["host_bound"]) == (2, 1, 0.5)
        assert arm["forward"]["tflops"] == pytest.approx(4 * 4 * 32 * 32 * 16 / 2e-3 / 1e12)
    assert record["ceiling"] == {"size": 32, "tflops": pytest.approx(2 * 32**3 / 2e-3 / 1e12)}
    assert "<= 1.10 held by 0.100" in printed.out
    # The GPU is kept waiting for longer where it was not for long enough.
    assert sorted(set(pretended_gpu)) == [2**20, 2**21, 2**22]


def test_a_clock_does_not_wait_for_ever(kernel, pretended_gpu, monkeypatch):
    from benchmarks.kernel import arms

    monkeypatch.setattr(torch.cuda.Event, "query", lambda self: True)
    clock = arms.Clock("cuda")
    assert [clock(lambda: None) for _ in range(9)] == [0.002] * 9
    assert max(pretended_gpu) == 2**25
    assert len(clock.host) == 9
    assert clock.late == [True] * 9


def test_the_interpreter_is_not_timed(run, pretended_gpu, kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(kernel.backend, "interpreted", lambda: True)
    monkeypatch.setattr(kernel, "measure", lambda *rest: pytest.fail("measured"))
    code, printed = run("--results", tmp_path / "kernel.jsonl")
    assert code == 2
    assert printed.err.startswith("error: TRITON_INTERPRET=1 would time Triton's interpreter")


def test_nothing_that_runs(run, pretended_gpu, kernel, monkeypatch, tmp_path):
    """As after an error from which a GPU does not come back."""
    from benchmarks.kernel import measure

    def fails(name, setting):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(measure, "errors", fails)
    results = tmp_path / "kernel.jsonl"
    code, _ = run("--lengths", 32, 64, "--tokens", 64, "--results", results)
    assert code == "error: nothing runs at T=32, 64 channels, bf16"
    (record,) = read(results)
    assert len(record["skipped"]) == 4
