"""benchmarks/pretraining/run_mlm.py: whole at a tiny size, when a loss was reached, and the tables of what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import made_up_text

from benchmarks.pretraining import run_mlm, run_mlm_arm, run_mlm_tables

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.pretraining.run_mlm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_whole_at_a_tiny_size(tmp_path):
    pytest.importorskip("datasets", reason="the baseline needs the package datasets")
    (tmp_path / "train.txt").write_text(made_up_text(500))
    (tmp_path / "valid.txt").write_text(made_up_text(60)[-2000:])
    kept = tmp_path / "kept.jsonl"
    size = ["--preset", "tiny", "--steps", "6", "--rounds", "1", "--threads", "1", "--precision", "fp32"]
    done = run(*size, "--text", tmp_path, "--results", kept)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, kept.read_text().splitlines())
    assert str(tmp_path) not in kept.read_text()
    assert record["versions"]["datasets"]
    arms = record["arms"]
    assert {arm: found["steps"] for arm, found in arms.items()} == dict.fromkeys(("run_mlm", "unguided", "guided"), 6)
    for found in arms.values():
        assert 0 < found["training_seconds"] < found["whole_seconds"]
        assert 0 < found["first_step_seconds"] < found["whole_seconds"]
        assert found["peak_mib"] > 50
    assert arms["run_mlm"]["validations"] == []
    for arm in ("unguided", "guided"):
        # One function, tokens and masks: the loss of the saved model is the one that `pretrain` gave.
        last = arms[arm]["validations"][-1]
        assert (last["step"], last["loss"]) == (6, pytest.approx(arms[arm]["final_loss"], rel=1e-5))
    # Same model, tokenizer, text and training: only masks, order and initial weights differ.
    assert arms["run_mlm"]["final_loss"] == pytest.approx(arms["unguided"]["final_loss"], abs=0.1)
    assert f"{record['ratios']['unguided']['tokens_per_second']:.2f} |" in done.stdout


def test_text_that_is_not_there(tmp_path):
    done = run("--text", tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert str(tmp_path / "train.txt") in done.stderr


@pytest.mark.parametrize(
    ("loss", "seconds"),
    [(9.5, 10.0), (9.0, 10.0), (8.0, 15.0), (7.0, 20.0), (5.5, 30.0), (4.0, None)],
    ids=["at once", "at the first", "between two", "at one", "after a plateau", "never"],
)
def test_when_a_loss_is_reached(loss, seconds):
    times, losses = (10, 20, 25, 35), (9.0, 7.0, 7.0, 4.0 + 1e-9)
    validations = [{"seconds": second, "loss": value} for second, value in zip(times, losses, strict=True)]
    assert run_mlm.seconds_to(validations, loss) == pytest.approx(seconds)


def test_steps_are_timed_without_validation_and_saving(monkeypatch):
    """The clock moves by 1 a step, 10 a validation and 100 a checkpoint; what a rehearsal did does not count."""
    now = [0.0]
    monkeypatch.setattr(run_mlm_arm.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(run_mlm_arm.time, "time", lambda: now[0])
    state = type("State", (), {"global_step": 0})()
    watch = run_mlm_arm.Stopwatch(-5.0)

    def after(seconds, event, **more):
        now[0] += seconds
        getattr(watch, event)(None, state, None, **more)

    for _ in range(2):
        begun = now[0]
        after(0, "on_train_begin")
        after(10, "on_evaluate", metrics={"eval_loss": 9.0})
        after(1, "on_step_end")
        after(1, "on_step_end")
        after(10, "on_evaluate", metrics={"eval_loss": 8.0})
        after(100, "on_save")
        after(1, "on_step_end")
    assert (watch.steps, watch.training_seconds) == (3, 3.0)
    assert watch.first_step_seconds == begun + 16
    assert [(each["seconds"], each["loss"]) for each in watch.validations] == [(begun + 15, 9.0), (begun + 27, 8.0)]


def record(begun, round_, **ratios):
    figures = {"whole_seconds": 100 * round_, "first_step_seconds": 2.0, "tokens_per_second": 1000.0}
    figures |= {"peak_mib": 800.0, "final_loss": 6.0}
    ratio = {"to_unguided_loss": None, "to_run_mlm_loss": 0.2 * round_, "whole_seconds": 1.0}
    ratio |= {"tokens_per_second": 1.5, "peak_mib": 0.5} | ratios
    setting = {"text": "t", "preset": "mini", "steps": 1500, "tokens_per_step": 4096, "threads": 2}
    setting |= {"precision": "bf16", "device": "CPU", "begun": begun, "round": round_, "tokenizer_seconds": 7.2}
    arms = dict.fromkeys(("run_mlm", "unguided", "guided"), figures)
    return setting | {"arms": arms, "ratios": dict.fromkeys(("unguided", "guided"), ratio)}


def test_the_newest_rounds_are_shown(tmp_path):
    records = [record("old", 9), record("new", 1), record("new", 2), record("new", 3, to_unguided_loss=0.1)]
    kept = tmp_path / "kept.jsonl"
    kept.write_text("".join(f"{json.dumps(each)}\n" for each in records))
    lines = run_mlm_tables.show(kept).splitlines()
    assert "| t, mini, 1,500 x 4,096 | run_mlm | 200 s (100 s to 300 s) |" in lines[2]
    assert lines[2].endswith("| – |")
    assert lines[3].endswith("| 7 s |")
    assert lines[-1] == (
        "| t, mini, 1,500 x 4,096 | `pretrain`, guided | not reached in 2 of 3 | 0.40 (0.20 to 0.60) "
        "| 1.00 (1.00 to 1.00) | 1.50 (1.50 to 1.50) | 0.50 (0.50 to 0.50) | 3 | CPU, bf16 |"
    )


def test_the_page_has_what_is_kept():
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    assert [line for line in run("--show").stdout.splitlines() if line not in page] == []
