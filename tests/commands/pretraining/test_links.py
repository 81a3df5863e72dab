"""A folder from someone else may contain links: nothing is written or removed where they lead."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from attention_guidance.commands import results
from attention_guidance.commands.output_lock import LOCK_FILE, until_done
from attention_guidance.commands.pretraining.saving.checkpoints import keep_newest, write_whole
from attention_guidance.commands.workspace import COMPARISON, RECIPE, RUN, State, Workspace
from attention_guidance.errors import RunError


@pytest.fixture
def outside(tmp_path) -> Path:
    """A folder and a file that stay as they are."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


def assert_untouched(outside: Path) -> None:
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"mine.txt": "mine"}


@pytest.mark.parametrize("name", ["results.json.partial", "results.json"])
def test_a_file_replaces_a_link(tmp_path, outside, name):
    (tmp_path / name).symlink_to(outside / "mine.txt")
    results.write_json(tmp_path / "results.json", {"a": 1})
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}
    assert not (tmp_path / "results.json").is_symlink()
    assert_untouched(outside)


@pytest.mark.parametrize("name", ["partial", "model", "nowhere"])
def test_a_folder_replaces_a_link(tmp_path, outside, name):
    (tmp_path / ("model" if name == "nowhere" else name)).symlink_to(tmp_path / "no" if name == "nowhere" else outside)
    write_whole(tmp_path / "model", lambda folder: (folder / "weights").write_text("new") and None)
    assert (tmp_path / "model" / "weights").read_text() == "new"
    assert not (tmp_path / "model").is_symlink()
    assert not os.path.lexists(tmp_path / "partial")
    assert_untouched(outside)


def test_a_checkpoint_that_is_a_link_is_removed_as_one(tmp_path, outside):
    (tmp_path / "checkpoint-1").symlink_to(outside)
    (tmp_path / "checkpoint-2").mkdir()
    keep_newest(tmp_path, tmp_path / "checkpoint-2", 1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    assert_untouched(outside)


def test_the_lock_is_a_file(tmp_path, outside):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(outside / "mine.txt")
    with until_done():
        assert Workspace(tmp_path / "out", RUN).claim() is State.NOTHING
        assert not (tmp_path / "out" / LOCK_FILE).is_symlink()
    assert_untouched(outside)


@pytest.mark.parametrize(
    "name", ["model", "checkpoints", "logs", "tokenizer", "attention", "checkpoints/partial", "results.json.partial"]
)
def test_a_run_with_a_link_to_elsewhere_is_not_resumed(tmp_path, outside, name):
    run = tmp_path / "run"
    (run / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    for file in ("run.yaml", "stepped"):
        (run / file).write_text("")
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(outside / "mine.txt" if "." in name else outside)
    said = rf"output=.*run: {name} is a link to {outside}.*; remove the link, or give another folder"
    with until_done(), pytest.raises(RunError, match=said):
        Workspace(run, RUN).claim(resume=True)
    if name in RUN.owned:
        with until_done():
            assert Workspace(run, RUN).claim(overwrite=True) is State.NOTHING
            Workspace(run, RUN).clear()
        assert not os.path.lexists(run / name)
    assert_untouched(outside)


@pytest.mark.parametrize(("kind", "link"), [(COMPARISON, "seed-1"), (RECIPE, "guided")], ids=["compare", "recipe"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_a_run_that_is_a_link_is_not_written_to(tmp_path, kind, link, finished):
    theirs, output = tmp_path / "theirs", tmp_path / "out"
    run = theirs / "guided" if kind is COMPARISON else theirs
    (run / "model").mkdir(parents=True)
    for name in ("run.yaml", "results.json"):
        (run / name).write_text("theirs")
    output.mkdir()
    (output / link).symlink_to(theirs)
    for name in ("run.yaml", kind.finished) if finished else ("notes.txt",):
        (output / name).write_text("")
    with until_done(), pytest.raises(RunError, match=f"{link} is a link to {theirs}|move {link}"):
        Workspace(output, kind).claim(overwrite=True)
    assert (run / "results.json").read_text() == "theirs"
    assert (run / "model").is_dir()


def test_links_inside_and_links_of_others_stay(tmp_path, outside):
    """As `latest` of a reporter, or a link to data beside the output."""
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "run" / "run.yaml").write_text("")
    (tmp_path / "run" / "latest").symlink_to("checkpoints/checkpoint-3")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with until_done():
        assert Workspace(tmp_path / "link", RUN).claim(resume=True) is State.BEGUN
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(outside)
    with until_done():
        assert Workspace(tmp_path / "other", RUN).claim(overwrite=True) is State.NOTHING


def test_a_received_run(arguments, cli, whole_run, tmp_path, outside, capsys):
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    (run / "results.json").unlink()
    shutil.move(run / "checkpoints", tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    assert cli("pretrain", "-o", run, "--resume", "-q") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: --output {run}: checkpoints is a link to {tmp_path / 'elsewhere'}, and ")
    assert cli("pretrain", *arguments, "--max-steps", "3", "-o", run, "--overwrite", "-q") == 0
    assert not (run / "checkpoints").is_symlink()
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_predictions_replace_a_link(tmp_path, outside):
    from attention_guidance.commands.finetuning.prediction.predict import _stream

    (tmp_path / "out.jsonl.partial").symlink_to(outside / "mine.txt")
    with _stream(str(tmp_path / "out.jsonl")) as stream:
        stream.write("new")
    assert (tmp_path / "out.jsonl").read_text() == "new"
    assert_untouched(outside)
