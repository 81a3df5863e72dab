"""What guidance costs in a run: read off what `compare` writes, turn by turn."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

STRETCH = 10


@pytest.fixture
def cost_product():
    return importlib.import_module("benchmarks.cost.product")


@pytest.fixture
def asked(cost_product, monkeypatch):
    """A `compare` that takes 1.2 times as long with guidance, on a machine that slows down, and begins slowly."""
    commands = []
    peaks = {"guided": iter([101.0, 110.0, 99.0]), "unguided": iter([100.0, 100.0, 100.0])}

    def run(command, env, **more):
        commands.append((command, env))
        output = Path(command[command.index("--output") + 1])
        for arm, factor in (("unguided", 1.0), ("guided", 1.2)):
            for step in (40, 100):
                seconds = factor * np.repeat(np.arange(1.0, step / STRETCH + 1), STRETCH)
                seconds[: 2 * STRETCH] = 99 if arm == "guided" else 1
                folder = output / "seed-1" / arm / "checkpoints" / f"checkpoint-{step}"
                folder.mkdir(parents=True)
                np.save(folder / "step_seconds.npy", seconds.astype(np.float32))
        return subprocess.CompletedProcess(command, 0, stderr="")

    def peak_memory(config, tokenizer):
        assert os.environ["MALLOC_TRIM_THRESHOLD_"], "freed memory is given back"
        return next(peaks[config])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(cost_product, "make_config", lambda flags, file: file.parent.name)
    monkeypatch.setattr(cost_product, "peak_memory", peak_memory)
    return commands


def test_ratios_are_of_turns_after_the_first(cost_product, asked, tmp_path):
    setting = cost_product.Setting("tiny", 64, 16, 100, 2)
    record = cost_product.measured(setting, 100)
    assert record["turns"] == 8
    assert [record["ratio"], record["ratio_low"], record["ratio_high"]] == pytest.approx([1.2, 1.2, 1.2])
    assert record["unguided_ms"] == pytest.approx(6500)
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ
    (command, environment) = asked[0]
    assert environment["OMP_NUM_THREADS"] == "2"
    assert command[command.index("--preset") + 1] == "tiny"
    cost_product.append(tmp_path / "kept.jsonl", [record])
    assert (
        "| tiny | mlm | 64 | fp32 | 2 | 6500 | 1.200 (1.200 to 1.200) | 1.05 | 1.010 (0.990 to 1.100) | 1.03 |"
        in cost_product.table(tmp_path / "kept.jsonl")
    )


def test_a_run_that_fails_is_one_line(cost_product, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, stderr="something\nerror: no such preset\n")
    monkeypatch.setattr(subprocess, "run", lambda *given, **more: failed)
    with pytest.raises(SystemExit, match="error: tiny-64-fp32-2-mlm: error: no such preset"):
        cost_product.measured(cost_product.Setting("tiny", 64, 16, 100, 2), 100)


def test_unknown_settings_are_named(cost_product, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["product", "--settings", "huge"])
    with pytest.raises(SystemExit):
        cost_product.main()
    assert "no setting begins with huge: tiny-64-fp32-1-mlm" in capsys.readouterr().err
