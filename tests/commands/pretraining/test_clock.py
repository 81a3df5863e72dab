"""Runs that last a given time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from attention_guidance.commands.objectives.base import Draws
from attention_guidance.commands.pretraining.loop import clock as clock_module
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.pretraining.settings.run_config import ENDLESS, seconds_of
from attention_guidance.errors import ConfigError

SMALL = {
    "layers": 1, "hidden": 32, "attention_heads": 2, "feed_forward": 64, "block_size": 16, "vocab_size": 280,
    "batch_size": 4, "heads": "next:1", "report_to": "none", "precision": "fp32", "warmup_share": 0.25,
}  # fmt: skip


class Ticking:
    """A clock whose second is a step of training."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


class Watch(TrainerCallback):
    """What the run is at, step by step; time passes here."""

    def __init__(self, time: Ticking, stop_after: int | None = None) -> None:
        self.time = time
        self.stop_after = stop_after
        self.rates: list[float] = []
        self.weights: list[float] = []
        self.run: Run | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        self.weights.append(self.run.guidance[""].current_weight)

    def on_step_end(self, args, state, control, **kwargs):
        self.time.now += 1
        if state.global_step == self.stop_after:
            control.should_save = control.should_training_stop = True


@pytest.fixture
def ticking(monkeypatch):
    time = Ticking()
    monkeypatch.setattr(clock_module, "time", time)
    return time


@pytest.fixture
def run_for(corpus, ticking):
    def make(folder: Path, stop_after: int | None = None, **more):
        config = make_config(SMALL | {"corpus": [str(corpus)], "max_time": "40s"} | more)
        watch = Watch(ticking, stop_after)
        run = Run(config, prepare_data(config, lambda said: None), RunFolder(folder), [watch], Clock(40.0))
        watch.run = run
        return run, watch

    return make


def test_everything_goes_by_the_clock(run_for, tmp_path):
    run, watch = run_for(tmp_path / "run", masking_rate=0.4, final_masking_rate=0.1)
    assert run.train()
    summary = run.finish()
    assert summary["steps"] == 40
    peak = run.config.learning_rate
    # It rises over a quarter of the time, then falls to 0; a step is told the time when the one before began.
    assert watch.rates[11] == pytest.approx(peak, rel=0.01)
    assert watch.rates[6] == pytest.approx(peak / 2, rel=0.01)
    assert watch.rates[26] == pytest.approx(peak / 2, rel=0.01)
    assert watch.rates[-1] == pytest.approx(peak * (1 - 38 / 40) / 0.75, rel=0.01)
    # hold-then-linear: full for a fifth, half at three fifths, 0 at the end.
    assert watch.weights[:8] == [0.1] * 8
    assert watch.weights[24] == pytest.approx(0.05, rel=0.01)
    # A validation each thirtieth of the time, as far as there are steps; the last is at the end.
    steps = [point["step"] for point in summary["curve"]]
    assert (steps[0], steps[-1]) == (0, 40)
    assert 30 <= len(steps) <= 32
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"checkpoint-36", "checkpoint-40"}
    labels = [int((example["labels"] >= 0).sum()) for example in _first_and_last(run)]
    assert labels == [6, 2]


def _first_and_last(run: Run):
    """The same draw at the beginning and at the end of the time."""
    for progress in (0.0, 1.0):
        yield Draws(run.data.train, run.objective, 10, 1, torch.tensor(progress))[0]


RATES = {"masking_rate": 0.4, "final_masking_rate": 0.1}


def labels_of_steps(run: Run) -> list[int]:
    """How many labels each step of a run has, which goes to its end."""
    labels: list[int] = []

    def count(model, args, kwargs):
        if model.training:
            labels.append(kwargs["labels"].numel())

    run.model.register_forward_pre_hook(count, with_kwargs=True)
    assert run.train()
    return labels


@pytest.mark.parametrize(
    "workers",
    [
        {},
        {"dataloader_num_workers": 1},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "spawn"},
    ],
    ids=["none", "one", "two", "spawned"],
)
def test_the_masking_rate_goes_by_the_clock_in_workers_too(run_for, tmp_path, workers):
    run, _ = run_for(tmp_path / "run", arguments=workers, **RATES)
    labels = labels_of_steps(run)
    assert len(labels) == 40
    assert labels[0] == 24
    # What workers have made in advance is of the time when they made it.
    assert labels[-1] in (8, 12)


def test_a_resumed_clock_is_told_to_workers(run_for, tmp_path):
    run, _ = run_for(tmp_path / "run", stop_after=20, arguments={"dataloader_num_workers": 1}, **RATES)
    assert not run.train()
    run, _ = run_for(tmp_path / "run", arguments={"dataloader_num_workers": 1}, **RATES)
    # A rate of 0.25 in the middle of the time.
    assert labels_of_steps(run)[0] == 16


def test_a_resumed_run_has_the_time_that_was_left(run_for, ticking, tmp_path):
    run, _ = run_for(tmp_path / "run", stop_after=15)
    assert not run.train()
    ticking.now += 10_000  # between the two, time passes that does not count
    run, watch = run_for(tmp_path / "run")
    assert run.train()
    assert run.finish()["steps"] == 40
    assert run.resumed_from == 15
    assert watch.rates[0] == pytest.approx(run.config.learning_rate * 25 / 30, rel=0.05)


def test_by_the_command(arguments, cli, tmp_path):
    rest = [*arguments]
    for name in ("--save-every", "--eval-every", "--max-steps"):
        place = rest.index(name)
        del rest[place : place + 2]
    assert cli("pretrain", *rest, "--max-time", "2s", "-o", tmp_path / "run", "-q") == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 1 <= results["steps"] < ENDLESS
    assert results["config"]["max_time"] == "2s"
    assert cli("compare", *rest, "--max-time", "2s", "-o", tmp_path / "compare", "-q") == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h", 10_800), ("90m", 5_400), ("1h30m", 5_400), ("45", 45), ("1.5m", 90), ("1d", 86_400)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "3 h", "h", "-3h", "3x", "0m", "nan"])
def test_no_times(text):
    with pytest.raises(ConfigError, match="max_time="):
        seconds_of(text)


@pytest.mark.parametrize(("name", "value"), [("eval_every", 5), ("save_every", 5), ("hold", 100), ("end", 100)])
def test_steps_do_not_go_with_time(name, value):
    with pytest.raises(ConfigError, match=f"{name}={value} counts steps"):
        make_config({"max_time": "3h", name: value})
