"""Several models on one task: candidates, both sides of `compare`, checkpoints, resuming."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from attention_guidance.commands.finetuning.candidates import candidates, checkpoints_of
from attention_guidance.errors import ConfigError, RunError

QUICK = ["--epochs", "1", "--learning-rates", "5e-3", "--batch-size", "8", "--no-baseline", "-q"]


@pytest.fixture
def task(tmp_path):
    """A folder with a task whose first word determines the label."""
    chance = random.Random(0)
    for split, n in (("train", 48), ("test", 24)):
        rows = [f"{label * 3} {chance.choice('abcdef')}\t{label}" for label in chance.choices("xy", k=n)]
        (tmp_path / "task").mkdir(exist_ok=True)
        (tmp_path / "task" / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    return tmp_path / "task"


def test_the_sides_of_a_compare_are_its_arms(tmp_path):
    for seed in (2, 10):
        for arm in ("guided", "unguided"):
            run = tmp_path / f"seed-{seed}" / arm
            run.mkdir(parents=True)
            (run / "results.json").write_text("{}")
    first, second = candidates([str(tmp_path)])
    assert first.name == "unguided"
    assert first.models == {f"unguided/seed-{n}": str(tmp_path / f"seed-{n}" / "unguided") for n in (2, 10)}
    assert [*second.models] == ["guided/seed-2", "guided/seed-10"]
    (tmp_path / "seed-10" / "guided" / "results.json").unlink()
    with pytest.raises(RunError, match="seed-10/guided has not finished; run the same compare again with `resume`"):
        candidates([str(tmp_path)])
    # Only the seeds of compare.json count, even if another seed was started earlier.
    (tmp_path / "compare.json").write_text('{"seeds": [{"seed": 2}]}')
    assert [side.models for side in candidates([str(tmp_path)])] == [
        {arm: str(tmp_path / "seed-2" / arm)} for arm in ("unguided", "guided")
    ]


def test_one_model_is_not_compared(whole_run):
    with pytest.raises(ConfigError, match="cannot compare a single model; give two or more"):
        candidates([str(whole_run)])


def test_checkpoints_are_spread_over_the_run(tmp_path, cli, arguments):
    run = tmp_path / "run"
    assert cli("pretrain", *arguments, "-o", run, "-q", "--keep-checkpoints", "10", "--save-every", "6") == 0
    steps = [step for step, _, _ in checkpoints_of(str(run), 20)]
    assert steps == [*range(6, 61, 6)]
    assert [step for step, _, _ in checkpoints_of(str(run), 5)] == [12, 24, 36, 48, 60]
    assert [step for step, _, _ in checkpoints_of(str(run), 1)] == [60]
    losses = [loss for _, loss, _ in checkpoints_of(str(run), 20)]
    assert all(isinstance(loss, float) for loss in losses)
    with pytest.raises(ConfigError, match="is a model and has no checkpoints"):
        checkpoints_of(str(run / "model"), 3)


def test_compare_continues_with_the_task(tmp_path, cli, arguments, task):
    out = tmp_path / "both"
    short = [*arguments, "--max-steps", "6", "--seeds", "2", "-o", out, "-q"]
    assert cli("compare", *short, "--downstream", "classify", "--task-data", task, "--finetune-seeds", "2") == 0
    content = json.loads((out / "downstream-classify" / "downstream.json").read_text())
    assert [(side["model"], side["seeds"]) for side in content["models"]] == [("unguided", 2), ("guided", 2)]
    for side in content["models"]:
        assert [run["run"] for run in side["runs"]] == [f"{side['model']}/seed-1", f"{side['model']}/seed-2"]
        assert [run["seeds"] for run in side["runs"]] == [2, 2]
        assert side["mean"] == pytest.approx(sum(run["mean"] for run in side["runs"]) / 2)
    (gap,) = content["differences"]
    assert gap["value"] == pytest.approx(content["models"][1]["mean"] - content["models"][0]["mean"])
    assert content["baseline"] is not None


def test_compare_looks_at_the_task_before_it_trains(tmp_path, cli, arguments, task, capsys):
    (task / "test.tsv").write_text("text\tlabel\na\tz\n")
    out = tmp_path / "both"
    assert cli("compare", *arguments, "-o", out, "--downstream", "classify", "--task-data", task) == 2
    assert "test.tsv:2: label 'z' is not in the training file" in capsys.readouterr().err
    assert not out.exists()
    for flag in (
        ["--task-data", task],
        ["--finetune-seeds", "3"],
        ["--repair"],
        ["--positive-label", "x"],
        ["--columns", "a"],
    ):
        assert cli("compare", *arguments, "-o", out, *flag) == 2
        assert f"{flag[0]} needs --downstream TASK" in capsys.readouterr().err
    assert cli("compare", *arguments, "-o", out, "--downstream", "ner") == 2
    assert "--downstream ner needs --task-data, a folder of files" in capsys.readouterr().err


def test_compare_passes_the_settings_that_read_the_task(tmp_path, cli, arguments, capsys):
    """Names of labels and columns that do not show which label is positive and what each column holds."""
    for split, n in (("train", 24), ("test", 12)):
        rows = (f"a {n}\tb {n}\t{'rb'[n % 2]}" for n in range(n))
        (tmp_path / f"{split}.tsv").write_text("\n".join(["left\tright\tcolour", *rows, ""]))
    out = tmp_path / "both"
    command = [
        "compare",
        *arguments,
        "--max-steps",
        "3",
        "-o",
        out,
        "-q",
        "--downstream",
        "mrpc",
        "--task-data",
        tmp_path,
    ]
    assert cli(*command) == 2
    assert "--columns" in capsys.readouterr().err
    command += ["--columns", "left", "right", "colour"]
    assert cli(*command) == 2
    assert "give --positive-label r, or b" in capsys.readouterr().err
    assert not out.exists()
    assert cli(*command, "--finetune-seeds", "1", "--positive-label", "b") == 0
    fine_tuned = json.loads((out / "downstream-mrpc" / "guided" / "finetune.json").read_text())
    assert fine_tuned["positive_label"] == "b"
    assert fine_tuned["labels"] == ["r", "b"]


def test_the_score_over_pre_training(tmp_path, cli, whole_run, task):
    out = tmp_path / "out"
    second = tmp_path / "second"
    shutil.copytree(whole_run, second)
    both = ["downstream", whole_run, second, "--task", "classify", "--data", task, *QUICK, "--seeds", "2"]
    assert cli("downstream", second / "model", *both[1:2], *both[3:], "-o", out, "--checkpoints", "2") == 2
    assert not out.exists()
    assert cli(*both, "-o", out, "--checkpoints", "2") == 0
    content = json.loads((out / "downstream.json").read_text())
    points = [(point["model"], point["step"], point["seeds"]) for point in content["checkpoints"]]
    assert points == [("run", 57, 2), ("run", 60, 2), ("second", 57, 2), ("second", 60, 2)]
    # The finished model is the one of the last step.
    last, whole = content["checkpoints"][1], content["models"][0]
    assert last["mean"] == whole["mean"]
    assert last["loss"] > 0
    assert (out / "checkpoints.png").stat().st_size > 5000


def test_predictions_of_another_time_are_not_read(tmp_path, cli, whole_run, task):
    other = tmp_path / "other"
    shutil.copytree(whole_run / "model", other)
    command = ["downstream", whole_run, other, "--task", "classify", "--data", task, *QUICK, "-o", tmp_path / "out"]
    assert cli(*command, "--seeds", "3") == 0
    assert cli(*command, "--seeds", "1", "--overwrite") == 0
    content = json.loads((tmp_path / "out" / "downstream.json").read_text())
    (gap,) = content["differences"]
    assert gap["second"] == pytest.approx(content["models"][0]["mean"])
