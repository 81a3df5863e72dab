"""A run that has learned nothing, or less than it was asked to, does not look like a success."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from attention_guidance.commands.pretraining.loop.shortfalls import UNGUIDED, shortfalls
from attention_guidance.commands.text.corpora import Document
from attention_guidance.commands.text.holding_out import comparable, repeated_lines

HEADS = [{"layer": 0, "head": number, "pattern": "next", "error": 0.0} for number in range(2)]
LEARNED = "the validation loss has not fallen"


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def said(folder: Path, beginning: str) -> list[str]:
    return [warning for warning in results_of(folder)["warnings"] if warning.startswith(beginning)]


def history(*errors: list[float] | None, losses: tuple[float, ...] = ()) -> list[dict]:
    losses = losses or tuple(float(9 - n) for n in range(len(errors)))
    entries = zip(losses, errors, strict=True)
    found = [{"eval_loss": loss} | ({"guidance_errors": of_heads} if of_heads else {}) for loss, of_heads in entries]
    return [*found, {"loss": 1.0}]


@pytest.mark.parametrize(
    ("errors", "missed"),
    [
        (([0.9, 0.9], [0.1, 0.1]), 0),
        # It followed while its weight was high.
        (([0.9, 0.9], [0.1, 0.2], [0.9, 0.8]), 0),
        (([0.9, 0.9], [0.1, 0.46]), 1),
        (([0.9, 0.9], [0.9, 1.1]), 2),
        (([0.9, 0.9], [math.nan, 0.1]), 1),
        # A trained model that follows from the start.
        (([0.04, 0.9], [0.05, 0.1]), 0),
        # A checkpoint from before errors were kept, and a run resumed from one.
        ((), 0),
        ((None, [0.2, 0.2], [0.2, 0.2]), 0),
    ],
)
def test_heads_that_never_follow(errors, missed):
    found = shortfalls(history(*errors), 0.5, HEADS, 0.1)
    assert len(found) == (missed > 0)
    if missed:
        assert f"{missed} of 2 guided heads never followed their pattern (next in layer 0, head " in found[0]


@pytest.mark.parametrize(("before", "after", "learned"), [(5.0, 4.999, True), (5.0, 5.0, False), (5.0, 5.1, False)])
def test_a_loss_that_does_not_fall(before, after, learned):
    found = shortfalls([{"eval_loss": before}, {"eval_loss": 1.0}], after, [], 0.1)
    assert [warning.startswith(LEARNED) for warning in found] == [True] * (not learned)
    assert shortfalls([], 5.0, [], 0.1) == []


def test_a_run_that_learns_nothing(arguments, cli, tmp_path, capsys):
    """At this learning rate, steps are too small to change a weight in float32."""
    given = [*arguments, "--learning-rate", "1e-12", "--max-steps", "30", "-o", tmp_path / "run"]
    assert cli("pretrain", *given) == 0
    results = results_of(tmp_path / "run")
    assert results["final_loss"] >= results["curve"][0]["loss"]
    (line,) = said(tmp_path / "run", LEARNED)
    assert f"{results['final_loss']:.3f}, and was {results['curve'][0]['loss']:.3f} before training" in line
    (heads,) = said(tmp_path / "run", "1 of 1 guided heads never followed")
    out = " ".join(capsys.readouterr().out.split())
    assert f"warning: {line.replace('`learning_rate`', '--learning-rate').replace('`dropout`', '--dropout')}" in out
    assert f"warning: {heads.replace('`weight`', '--weight')}" in out
    # A finished run is not silent about it later.
    assert cli("pretrain", "-o", tmp_path / "run", "--resume") == 0
    assert f"warning: {LEARNED}" in capsys.readouterr().out


def test_a_run_that_learns_and_follows(arguments, cli, tmp_path, capsys):
    given = [*arguments, "--dropout", "0", "--weight", "10", "--schedule", "constant", "--learning-rate", "1e-2"]
    assert cli("pretrain", *given, "-o", tmp_path / "run") == 0
    results = results_of(tmp_path / "run")
    assert results["warnings"] == []
    assert results["guidance"][0]["error"] < 0.4
    assert "warning" not in capsys.readouterr().out
    # As of a run that stopped: errors before the stop are those of its checkpoint.
    for name in ("results.json", "checkpoints/checkpoint-60", "model"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert cli("pretrain", "-o", tmp_path / "run", "--resume", "-q") == 0
    assert results_of(tmp_path / "run")["warnings"] == []


def test_a_weight_of_0_guides_nothing(arguments, cli, tmp_path, capsys):
    assert cli("compare", *arguments, "--weight", "0", "-o", tmp_path / "both", "-q") == 2
    assert "compare needs a weight above 0; --weight 0 leaves nothing to compare" in capsys.readouterr().err
    assert cli("pretrain", *arguments, "--weight", "0", "--max-steps", "20", "-o", tmp_path / "run") == 0
    assert results_of(tmp_path / "run")["warnings"] == [UNGUIDED]
    out = capsys.readouterr().out
    shown = UNGUIDED.replace("`weight`", "--weight")
    assert out.index(f"note: {shown}") < out.index("step 0/20") < out.index(f"warning: {shown}")


def test_a_learning_rate_of_0_is_refused(arguments, cli, tmp_path, capsys):
    assert cli("pretrain", *arguments, "--learning-rate", "0", "-o", tmp_path / "run", "-q") == 2
    assert "error: --learning-rate 0" in capsys.readouterr().err


def test_validation_text_that_is_trained_on_is_counted(arguments, corpus, cli, tmp_path, capsys):
    lines = corpus.read_text().splitlines()
    new = [f"quite another line {n} of words." for n in range(20)]
    # Case, spaces and final punctuation aside.
    validation = tmp_path / "validation.txt"
    validation.write_text("\n".join([lines[3], *new, f"  {lines[7].upper()} !", lines[3]]))
    given = [*arguments[: arguments.index("--validation-share")], "--validation", validation, "--max-steps", "20"]
    given += ["--heads", "next:1"]
    assert cli("pretrain", *given, "-o", tmp_path / "run") == 0
    warning = "3 of 23 lines of the validation text are also in the training text, which lowers the validation loss"
    results = results_of(tmp_path / "run")
    assert warning in results["warnings"]
    assert results["data"]["validation_in_training"] == 3
    out = " ".join(capsys.readouterr().out.split())
    assert f"note: {warning}" in out
    assert f"warning: {warning}" in out


def test_lines_that_are_repeated():
    train = [Document("One line.\nAnother “line”", "a"), Document("", "b")]
    validation = [Document('one  line\n\nnew line\nANOTHER "line"!\none line', "c")]
    assert repeated_lines(validation, train) == (3, 4)
    assert repeated_lines([Document("new", "c")], train) == (0, 1)


def test_held_out_text_is_none_of_the_rest(whole_run):
    assert results_of(whole_run)["data"]["validation_in_training"] == 0


@pytest.mark.parametrize("text", ["A b.", " a B !?)", "...", "", "x\x1fy\x85"])
def test_plain_ascii_is_compared_as_all_text(text):
    """A joiner, which is ignored, leads to the general way."""
    assert comparable(text) == comparable(f"\u200d{text}")
