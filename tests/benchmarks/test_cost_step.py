"""The benchmark of the cost of guidance, at the size of a toy."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attention_guidance import guide
from attention_guidance.loss import backends

TOY = "--layers 1 --hidden 64 --heads 4 --vocabulary 64 --tokens 64 --device cpu"
STEP_FIGURES = {"first_loss", "p20_ms", "p50_ms", "p80_ms", "ratio", "ratio_low", "ratio_high", "step_ms"}
SHARED_KEYS = {
    "schema_version", "kind", "date", "versions", "device", "processor", "threads", "dtype", "bf16_emulated",
    "settings", "auto", "arms", "skipped",
}  # fmt: skip


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what --device cpu sets, undone after the test
    from benchmarks.cost import step

    return step


@pytest.fixture
def run(cost: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[dict]]:
    """Run the benchmark in this process; gives all results kept."""
    results = tmp_path / "cost.jsonl"

    def run(arguments: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["step", *arguments.split(), "--results", str(results)])
        cost.main()
        return [json.loads(line) for line in results.read_text().splitlines()]

    return run


@pytest.fixture
def toy(cost: ModuleType):
    """The setting that TOY asks for."""
    return cost.Setting(
        layers=1, hidden=64, heads=4, vocabulary=64, masked_head=False, tokens=64, length=16, positions=16,
        dtype="fp32", device="cpu", threads=1,
    )  # fmt: skip


def test_steps(run, capsys):
    first, second = run(f"{TOY} --lengths 16 32 --dtypes fp32 --repeats 2 --no-memory")
    printed = capsys.readouterr().out
    assert (first["length"], second["length"]) == (16, 32)
    for kept in (first, second):
        assert kept.keys() == SHARED_KEYS | {"length", "rounds"}
        assert (kept["kind"], kept["dtype"], kept["rounds"]) == ("cost", "fp32", 2)
        arms = kept["arms"]
        assert arms.keys() | kept["skipped"].keys() == {"unguided", "naive", *backends.NAMES}
        assert {"unguided", "reference", "blocked", "naive"} <= arms.keys()
        assert all(arm.keys() == STEP_FIGURES for arm in arms.values())
        assert all(arm["ratio_low"] <= arm["ratio"] <= arm["ratio_high"] for arm in arms.values())
        assert arms["unguided"]["ratio"] == 1
        losses = [arm["first_loss"] for name, arm in arms.items() if name not in ("unguided", "naive")]
        assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-4)
        assert all(f"skipped {name} at T={kept['length']}" in printed for name in kept["skipped"])
        assert losses[0] > arms["unguided"]["first_loss"] + 0.01


def test_the_naive_arm_is_the_authors_loss(cost, toy, monkeypatch):
    """What the library calls `elementwise`, made from maps that the model returns."""
    from benchmarks.cost import arms

    naive = cost.Arm("naive", toy).first_step()
    monkeypatch.setattr(
        arms,
        "guide",
        lambda model, heads, weight, backend: guide(model, heads, weight, normalization="elementwise"),
    )
    assert naive == pytest.approx(cost.Arm("reference", toy).first_step(), rel=1e-6)
    assert naive > cost.Arm("unguided", toy).first_step() + 1e-3


def test_peak_memory_and_its_growth(run, cost, toy, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)  # where the process of an arm finds no benchmarks
    assert cost.peak_memory("unguided", toy) > 1
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RuntimeError, match="exit code 1"):
            cost.peak_memory("unguided", toy)
    peaks = {("unguided", 16): 100, ("unguided", 64): 110, ("batched", 16): 120, ("batched", 64): 264}
    monkeypatch.setattr(cost, "peak_memory", lambda name, setting: peaks[name, setting.length])
    (kept,) = run(f"growth {TOY} --lengths 16 64 --dtypes fp32 --backends batched")
    assert kept.keys() == SHARED_KEYS | {"lengths"}
    assert kept["lengths"] == [16, 64]
    assert kept["arms"]["batched"] == {"peak_mib": [120, 264], "growth": 2.2, "growth_ratio": pytest.approx(2.0)}
    assert "growth <= 1.10 missed by 0.900" in capsys.readouterr().out
    peaks |= {("naive", 16): 150}
    _, kept = run(f"{TOY} --lengths 16 --dtypes fp32 --backends batched --repeats 2")
    assert kept["arms"]["batched"]["memory_ratio"] == pytest.approx(1.2)
    assert "memory <= 1.03 missed by 0.170" in capsys.readouterr().out


def test_ratios_are_taken_within_rounds(cost):
    """A machine that slows down as a whole changes no ratio."""
    assert cost.step_time([1.1, 2.2, 4.4], [1.0, 2.0, 4.0]) == pytest.approx(
        {"ratio": 1.1, "ratio_low": 1.1, "ratio_high": 1.1}
    )
    assert cost.step_time([1.0, 1.2, 1.6], [1.0, 1.0, 1.0])["ratio"] == 1.2


def test_the_time_limit(cost):
    class Slow:
        def step(self) -> float:
            return 1.0

    assert cost.take_turns({"a": Slow(), "b": Slow()}, 9, 0.0) == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_emulated_bf16_is_told(run, monkeypatch, capsys):
    for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, check, lambda: False, raising=False)
    (kept,) = run(f"{TOY} --lengths 16 --dtypes bf16 --repeats 9 --no-memory --backends")
    assert kept["bf16_emulated"]
    assert kept["rounds"] == 5
    assert "bf16 is emulated" in capsys.readouterr().out


def test_results_of_a_backend_that_is_gone_are_still_shown(cost, monkeypatch, capsys):
    """Those that are kept have arms of `flash`, which is asked for in vain now."""
    monkeypatch.setattr(sys, "argv", ["step", "--show"])
    cost.main()
    arms = [line.split("|")[6].strip() for line in capsys.readouterr().out.splitlines() if line]
    assert {"flash", "blocked"} <= set(arms)


def test_a_backend_that_is_gone_is_skipped(run):
    (kept,) = run(f"{TOY} --lengths 16 --dtypes fp32 --repeats 2 --no-memory --backends flash")
    assert kept["skipped"] == {
        "flash": "ConfigError: unknown backend 'flash'; expected auto or one of reference, batched, blocked, triton"
    }


def test_show_and_keep(run, tmp_path, capsys):
    run(f"{TOY} --lengths 16 --dtypes fp32 --repeats 2 --no-memory --backends reference")
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text((tmp_path / "cost.jsonl").read_text())
    capsys.readouterr()
    assert len(run(f"--keep {elsewhere}")) == 2
    run("--show")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| device | model | tokens a step | dtype | T | arm |")
    assert [line.split("|")[6].strip() for line in lines[2:8]] == ["unguided", "reference", "naive"] * 2
    assert len({line.count("|") for line in lines if line}) == 1
