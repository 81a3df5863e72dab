"""`benchmarks/kernel.py` goes through all it does, at toy size in Triton's interpreter, and times nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytest.importorskip("triton")


@pytest.fixture
def arms(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("with a GPU the kernels are compiled, not interpreted")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kernel_arms

    return kernel_arms


@pytest.fixture
def toy(arms):
    return arms.Setting(1, 6, 32, 32, "fp32", "cpu", 1)


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "kernel.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_dry_run_goes_through_everything(tmp_path):
    results = tmp_path / "kernel.jsonl"
    done = run("--dry-run", "--results", results)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["length"] for record in records] == [32, 64]
    for record in records:
        assert record["dry_run"]
        assert record["schema_version"] == 1
        assert record["versions"]["triton"]
        assert record["ceiling_tflops"] > 0
        assert record["skipped"].keys() == {"flex"}, "no backward pass on CPUs"
        assert record["arms"].keys() == {"sdpa-flash", "triton-unguided", "triton-guided", "flash-guided"}
        for arm in record["arms"].values():
            assert arm["error"] < 1e-5
            for part in ("forward", "backward", "both"):
                assert 0 < arm[part]["p20_ms"] <= arm[part]["p50_ms"] <= arm[part]["p80_ms"]
                assert arm[part]["ratio_low"] <= arm[part]["ratio"] <= arm[part]["ratio_high"]
        assert record["guided_over_unguided"].keys() == {"forward", "backward", "both"}
    shown = run("--show", "--results", results)
    assert shown.returncode == 0
    assert "(dry run, in the interpreter) | fp32 | 32 | 64 | triton-guided | both |" in shown.stdout
    assert "guided over SDPA's flash kernel: " in shown.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path):
    done = run("--results", tmp_path / "kernel.jsonl")
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: no NVIDIA GPU here; --dry-run tries everything")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_dry_run_is_kept_apart():
    done = run("--dry-run")
    assert done.returncode == 2
    assert "give it a file with --results" in done.stderr


def test_nothing_measured(tmp_path):
    done = run("--show", "--results", tmp_path / "none.jsonl")
    assert done.returncode == 0
    assert done.stdout.strip() == "Not yet measured: no results from an NVIDIA GPU are kept."


@pytest.mark.parametrize("name", ["sdpa-flash", "triton-unguided", "triton-guided", "flash-guided"])
def test_what_is_compared_is_the_same(arms, toy, name):
    assert arms.error(name, toy) < 1e-5


def test_what_is_wrong_is_not_timed(arms, toy, monkeypatch, capsys):
    import kernel

    attend = arms.triton.attend

    def wrong(call):
        out, rows = attend(call)
        return (out, rows) if not call.groups else (out * 1.01, rows)

    monkeypatch.setattr(arms.triton, "attend", wrong)
    record = kernel.measure(toy, 2, 60)
    assert "triton-guided" not in record["arms"]
    assert record["skipped"]["triton-guided"].startswith("wrong: a relative error of")
    assert "triton-unguided" in record["arms"]
    assert record["guided_over_unguided"] == {}
    assert "skipped triton-guided at T=32" in capsys.readouterr().out


def test_wrong_may_be_no_number(arms, toy, monkeypatch):
    attend = arms.triton.attend
    monkeypatch.setattr(arms.triton, "attend", lambda call: (attend(call)[0] * float("nan"), attend(call)[1]))
    assert arms.error("triton-guided", toy) != arms.error("triton-guided", toy), "NaN"
