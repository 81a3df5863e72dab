"""`python -m benchmarks.evidence`: its page, its runs, the numbers it compares."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_sample_images
from small_runs import made_up_text

from attention_guidance.commands.media.images import read_images

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "evidence.md"
SMALL = {"layers": 1, "hidden": 32, "attention_heads": 4, "feed_forward": 32, "block_size": 16, "batch_size": 4}


@pytest.fixture
def evidence(monkeypatch):
    """A module of the package by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.evidence.{name}")


def command(*given):
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "benchmarks.evidence", *map(str, given)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})


def test_page_and_figures_are_those_of_the_results(tmp_path):
    done = command("page", "--output", tmp_path / "evidence.md")
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text(encoding="utf-8") for path in PAGE.parent.glob("evidence*")}
    assert "\n## objectives\n" in written["evidence.md"]


def test_every_run_that_is_kept_belongs_to_a_study(evidence):
    kept = evidence("study").read(ROOT / "benchmarks" / "results" / "evidence.jsonl")
    keys = {
        evidence("study").key_of(spec.identity)
        for study in evidence("studies").every_study()
        for spec in study.runs(kept, evidence("study").SEEDS)
    }
    assert [record for record in kept if evidence("study").key_of(record) not in keys] == []


def made_up(spec, chance):
    """A result of a run, of the right form."""
    n_steps, loss = spec.flags["max_steps"], chance.uniform(4.0, 6.0)
    shots = [{"step": n_steps * n // 5, "right": chance.random()} for n in range(1, 6)]
    for shot in shots:
        shot["mass"] = [[[chance.random() for _ in range(6)] for _ in range(4)] for _ in range(2)]
    patterns = ["next", "previous", "first", "same", "delimiter", "period"]
    watched = {"patterns": patterns, "uniform": [0.02] * 6, "pairs": 680, "snapshots": shots}
    return spec.identity | {
        "loss": None if chance.random() < 0.1 and not spec.watch else loss,
        "model": {"type": "roberta"},
        "precision": "bf16",
        "unigram_entropy": 5.6,
        "curve": [[n_steps * n // 10, 7 + (loss - 7) * n / 10] for n in range(11)],
        "guidance_error": {"left": 0.1, "right": 0.2},
        "watched": watched,
        "cpu_seconds": 10.0,
    }


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_every_study_gives_a_section_from_whatever_is_kept(evidence, share, tmp_path):
    chance, study = random.Random(0), evidence("study")
    kept = study.Kept()
    for each in evidence("studies").every_study():
        while left := each.left(kept):
            for spec in left:
                kept.add(made_up(spec, chance))
    some = study.Kept(record for record in kept if chance.random() < share)
    page, *figures = evidence("page").write_page(some, tmp_path / "evidence.md")
    text = page.read_text(encoding="utf-8")
    verdicts = re.findall(r"^\*\*Verdict: ([\w ]+)\.\*\*", text, re.MULTILINE)
    if share == 1:
        assert len(verdicts) == len(evidence("studies").NAMES)
        assert set(verdicts) <= {"holds", "holds in part", "does not hold here", "undecided"}
        assert sorted(path.name for path in figures) == sorted(re.findall(r"\]\((evidence-.*?\.svg)\)", text))
        assert len(figures) == 4
    else:
        assert set(verdicts) == {"open"}
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    assert "nan" not in text


@pytest.mark.parametrize(
    ("right", "slope", "verdict"),
    [(0.53, -0.1, "undecided"), (0.8, -0.1, "does not hold here"), (0.8, 0.1, "holds"), (0.8, 0.0, "holds")],
)
def test_skill_is_judged_where_there_is_some(evidence, right, slope, verdict):
    """Of 680 pairs, 53.8 % right are above chance."""
    study, skill, chance = evidence("study"), evidence("studies.skill"), random.Random(0)
    kept = study.Kept()
    for spec in skill.runs(kept, study.SEEDS):
        record = made_up(spec, chance)
        for shot, (_, loss) in zip(record["watched"]["snapshots"], record["curve"][2::2], strict=True):
            shot["right"] = right + slope * (loss - record["loss"]) + chance.gauss(0, 1e-4)
        kept.add(record)
    assert skill.section(kept).verdict == verdict


def test_unknown_study_is_one_clear_line():
    done = command("run", "objektives")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "unknown study 'objektives'; expected one of objectives, images, hyperparameters, " in line


def test_missing_text_is_one_clear_line(evidence, tmp_path):
    spec = evidence("study").Spec(text="hausa")
    with pytest.raises(ValueError, match=r"hausa/train.txt: no such file; the text hausa is not there"):
        evidence("data").flags_of(spec, tmp_path, tmp_path)


@pytest.mark.parametrize(("name", "side", "shapes"), [("digits", 8, (1497, 300)), ("photographs", 32, (1550, 350))])
def test_images_reach_the_run_as_they_are(evidence, name, side, shapes, tmp_path):
    data = evidence("data")
    made = evidence("images").IMAGES[name]()
    flags = data.flags_of(evidence("study").Spec(text=name), tmp_path, tmp_path)
    for images_nxyc, field, n in zip(made, ("corpus", "validation"), shapes, strict=True):
        assert images_nxyc.shape == (n, side, side, 3)
        assert (read_images(flags[field], side).transpose(0, 2, 3, 1) == images_nxyc).all()


def test_training_and_validation_have_no_part_of_a_photograph_in_common(evidence):
    train, validation = evidence("images").IMAGES["photographs"]()
    china, flower = load_sample_images().images
    assert (train[0] == china[:32, :32]).all()
    assert (train[1] == china[:32, 16:48]).all()
    assert (train[-1] == flower[384:416, 480:512]).all()
    assert (validation[0] == china[:32, 512:544]).all()
    assert (validation[-1] == flower[384:416, 608:640]).all()


def test_runs_that_are_kept_are_not_made_again(evidence, tmp_path):
    study, running = evidence("study"), evidence("running")
    for part, n_lines in ("train", 60), ("valid", 20):
        (tmp_path / "made_up").mkdir(exist_ok=True)
        # Other lines than those trained on.
        lines = made_up_text(80).splitlines(keepends=True)
        text = lines[:n_lines] if part == "train" else lines[-n_lines:]
        (tmp_path / "made_up" / f"{part}.txt").write_text("".join(text))
    settings = SMALL | {"vocab_size": 280, "max_steps": 8, "dropout": 0.1}
    specs = [
        study.Spec(settings, 1, "made_up"),
        study.Spec(settings, 2, "made_up"),
        study.Spec(settings | {"learning_rate": 1e9, "max_grad_norm": 0.0}, 1, "made_up"),
        study.Spec(settings, 1, "made_up", watch="census"),
    ]
    tiny = study.Study("tiny", "", "", "", "", lambda kept, seeds: specs, lambda kept: None)
    place = running.Place(tmp_path / "work", tmp_path, tmp_path / "kept.jsonl")
    running.run_study(tiny, study.read(place.results), (1,), 1, place)
    records = [*map(json.loads, place.results.read_text().splitlines())]
    assert [record["seed"] for record in records] == [1, 2, 1, 1]
    assert [record["loss"] is None for record in records] == [False, False, True, False]
    assert records[0]["curve"][-1] == [8, pytest.approx(records[0]["loss"], abs=1e-4)]
    assert records[0]["guidance_error"].keys() == {"next", "previous", "first"}
    # What is measured on the way changes nothing.
    assert [records[3][name] for name in ("loss", "curve")] == [records[0][name] for name in ("loss", "curve")]
    assert [shot["step"] for shot in records[3]["watched"]["snapshots"]] == [*range(9)]
    assert [*place.work.iterdir()] == []
    kept = study.read(place.results)
    assert tiny.left(kept) == []
    running.run_study(tiny, kept, (1,), 1, place)
    assert len(place.results.read_text().splitlines()) == 4


def test_watched_runs_serve_for_those_that_are_not(evidence):
    study = evidence("study")
    watched = study.Spec(watch="census")
    kept = study.Kept([watched.identity | {"loss": 1.0}])
    assert study.Spec() in kept
    assert study.Spec(seed=2) not in kept
    assert [*kept] == [kept[watched]]


def test_tuned_runs_are_the_best_of_the_grid(evidence):
    study, convergence = evidence("study"), evidence("studies.convergence")
    case = convergence.CASES[1]
    tried = convergence.grid(case)
    kept = study.Kept(spec.identity | {"loss": 5.0 - number} for number, spec in enumerate(tried[:-1]))
    assert convergence.tuned(case, 2, kept) is None
    # A run that diverged has no loss.
    kept.add(tried[-1].identity | {"loss": None})
    assert convergence.tuned(case, 2, kept).flags == tried[-2].flags
    assert convergence.tuned(case, 2, kept).seed == 2


def record(loss, curve=(), steps=100):
    return {"loss": loss, "curve": curve, "unigram_entropy": 5.0, "settings": {"max_steps": steps}}


def test_steps_ratio_is_the_first_validated_step_at_the_other_loss(evidence):
    ratio = evidence("stats").steps_ratio
    curve = [[0, 7.0], [50, 4.0], [100, 3.0]]
    assert ratio((record(3.0, curve), record(4.0))) == 0.5
    assert ratio((record(3.0, curve), record(2.9))) is None
    assert ratio((record(3.0, curve), record(None))) is None


def test_off_the_plateau_is_half_a_nat_below_the_entropy(evidence):
    off = evidence("stats").off_plateau
    assert [off(record(loss)) for loss in (4.4, 4.6, None)] == [True, False, False]


def test_interval_is_students(evidence):
    found = evidence("stats").interval([1.0, 2.0, 3.0])
    # t of 2 degrees of freedom at 97.5 %: 4.302653; standard error: 1 / sqrt(3).
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)
