"""Results count as long as the defaults that they were made with are today's."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

from attention_guidance import guide
from attention_guidance.commands.pretraining.settings.config import RunConfig

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence.jsonl"


@pytest.fixture
def evidence(monkeypatch):
    """A module of the package by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.evidence.{name}")


def test_every_run_that_is_kept_was_made_with_todays_defaults(evidence):
    defaults = evidence("defaults")
    was = {}
    for record in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
        for name, value in defaults.outdated(record).items():
            was.setdefault(f"{name} was {value!r}", []).append(record["date"])
    said = "a default has changed: remove these runs and make them again (python -m benchmarks.evidence list)"
    assert {found: len(dates) for found, dates in was.items()} == {}, said


def test_every_studied_default_has_its_runs(evidence):
    """Removing the runs of an old default is not enough: those of the new one have to be made."""
    study, defaults = evidence("study"), evidence("defaults")
    kept = study.read(RESULTS)
    guidance = {name for name, settings, _ in defaults.STUDIED if not settings}
    for name, settings, of_study in defaults.STUDIED:
        runs = evidence("studies").get_study(of_study).runs(kept, study.SEEDS)
        default_arm = [
            spec
            for spec in runs
            if guidance | {name} <= defaults.defaults_of(spec.flags).keys() and settings.items() <= spec.flags.items()
        ]
        assert default_arm, f"no run of {of_study} has the default of {name} {settings or ''}"
        # The page says of a study without any run that it is not run yet.
        assert kept.of(default_arm) or not kept.of(runs), f"{of_study} lacks runs with the default of {name}"


def test_guide_and_pretrain_have_the_same_defaults():
    of_guide = inspect.signature(guide).parameters
    for name in ("weight", "loss", "normalization"):
        assert of_guide[name].default == getattr(RunConfig, name)


def test_runs_with_another_default_do_not_count(evidence, tmp_path):
    study, defaults = evidence("study"), evidence("defaults")
    guided, unguided, rtd = study.Spec(), study.Spec().unguided, study.Spec({"objective": "rtd"})
    records = [spec.identity | {"loss": 5.0} for spec in (guided, unguided, rtd)]
    today = [record | {"defaults": defaults.defaults_of(record["settings"])} for record in records]
    assert [record["defaults"].get("weight") for record in today] == [0.1, None, 5.0]
    assert [defaults.outdated(record) for record in records + today] == [{}] * 6
    other = today[0] | {"defaults": today[0]["defaults"] | {"weight": 0.2}}
    assert defaults.outdated(other) == {"weight": 0.2}
    path = tmp_path / "kept.jsonl"
    for record in (other, today[1]):
        study.append(path, record)
    assert guided not in study.read(path)
    assert unguided in study.read(path)
    # Made again, it counts.
    study.append(path, today[0])
    assert "weight" in study.read(path)[guided]["defaults"]
