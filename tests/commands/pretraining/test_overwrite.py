"""A run or comparison that is replaced: once nothing is wrong with the new one, and nothing else in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from attention_guidance.commands.pretraining import compare as compare_module
from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer

SHORT = ["--max-steps", "4", "--save-every", "2", "--eval-every", "4", "-q"]


@pytest.fixture
def run(whole_run, tmp_path) -> Path:
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    (folder / "notes.txt").write_text("mine")
    (folder / "model" / "old").write_text("")
    return folder


def state_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def results_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("half", [False, True])
def test_another_run_takes_its_place(run, arguments, cli, half):
    if half:
        (run / "results.json").unlink()
    assert cli("pretrain", *arguments, *SHORT, "--vocab-size", "290", "-o", run, "--overwrite") == 0
    results = results_of(run)
    assert (results["steps"], results["resumed_from"], results["model"]["vocabulary"]) == (4, None, 290)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    assert not (run / "model" / "old").exists()
    assert (run / "notes.txt").read_text() == "mine"
    # It is the run from now on.
    assert cli("pretrain", "-o", run, "--resume", "-q") == 0
    assert results_of(run) == results


def test_a_run_is_not_lost_to_one_that_cannot_begin(run, arguments, cli, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("few words")
    before = state_of(run)
    for text, given, message in (
        (tmp_path / "nowhere.txt", [], "nowhere.txt"),
        (tmp_path / "short.txt", [], "short.txt"),
        (arguments[0], ["--heads", "nowhere:1"], "nowhere"),
        (arguments[0], ["--vocab-size", "100"], "vocab"),
    ):
        assert cli("pretrain", text, *arguments[1:], *SHORT, *given, "-o", run, "--overwrite") == 2
        assert message in capsys.readouterr().err
        assert state_of(run) == before
    for flag, part in (("--init-from", "model"), ("--tokenizer", "tokenizer")):
        assert cli("pretrain", arguments[0], flag, run, *SHORT, "-o", run, "--overwrite") == 2
        assert f"would replace {run / part}, which the command reads; give another folder" in capsys.readouterr().err
        assert state_of(run) == before


def test_with_resume_what_is_the_same_goes_on(run, arguments, cli, capsys):
    before = state_of(run)
    assert cli("pretrain", *arguments, "-o", run, "--resume", "--overwrite") == 0
    assert "is already finished" in " ".join(capsys.readouterr().out.split())
    assert cli("pretrain", "-o", run, "--resume", "--overwrite") == 0
    # A setting alone is no command of another run.
    assert cli("pretrain", "--weight", "1", "-o", run, "--resume", "--overwrite", "-q") == 2
    assert "give the run's text and settings too" in capsys.readouterr().err
    assert state_of(run) == before
    assert cli("pretrain", *arguments, *SHORT, "-o", run, "--resume", "--overwrite") == 0
    assert (results_of(run)["steps"], results_of(run)["resumed_from"]) == (4, None)


def test_stopped_after_it_took_the_place_it_goes_on(run, arguments, cli, monkeypatch):
    step = PretrainingTrainer.training_step

    def fail_in_the_fourth(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as broken:
        broken.setattr(PretrainingTrainer, "training_step", fail_in_the_fourth)
        assert cli("pretrain", *arguments, *SHORT, "-o", run, "--overwrite") == 130
    assert cli("pretrain", "-o", run, "--resume", "-q") == 0
    assert (results_of(run)["steps"], results_of(run)["resumed_from"]) == (4, 2)


def test_beside_files_of_others(arguments, cli, tmp_path, capsys):
    """They stay; what the run would replace is in its way."""
    folder = tmp_path / "out"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("mine")
    assert cli("pretrain", *arguments, *SHORT, "-o", folder) == 2
    assert "is not empty and holds no run; give another folder, or --overwrite" in capsys.readouterr().err
    assert cli("pretrain", *arguments, *SHORT, "-o", folder, "--overwrite") == 2
    assert "move model away" in capsys.readouterr().err
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {"model", "model/config.json"}
    (folder / "model").rename(folder / "mine")
    assert cli("pretrain", *arguments, *SHORT, "-o", folder, "--overwrite") == 0
    assert (folder / "mine" / "config.json").read_text() == "mine"


def test_another_comparison_takes_its_place(whole_run, arguments, corpus, cli, tmp_path, monkeypatch, capsys):
    """Of one that is there only its arms are known here; another text is no reason to refuse."""
    monkeypatch.setattr(compare_module, "peak_memory", lambda config, tokenizer: 100.0)
    folder, other = tmp_path / "compare", tmp_path / "other.txt"
    for seed in ("seed-1", "seed-7"):
        shutil.copytree(whole_run, folder / seed / "guided")
        shutil.copytree(whole_run, folder / seed / "unguided")
    (folder / "seed-1" / "guided" / "notes.txt").write_text("mine")
    shutil.copy(whole_run / "run.yaml", folder)
    other.write_text(corpus.read_text().replace("a", "b"))
    before = state_of(folder)
    assert cli("compare", other, *arguments[1:], *SHORT, "-o", folder) == 2
    assert "holds a comparison already; continue it with --resume" in capsys.readouterr().err
    assert cli("pretrain", other, *arguments[1:], *SHORT, "-o", folder, "--overwrite") == 2
    assert "holds a comparison; give another folder" in capsys.readouterr().err
    assert cli("compare", other, *arguments[1:], *SHORT, "--heads", "nowhere:1", "-o", folder, "--overwrite") == 2
    assert state_of(folder) == before
    assert cli("compare", other, *arguments[1:], *SHORT, "-o", folder, "--overwrite") == 0
    assert [seed["seed"] for seed in json.loads((folder / "compare.json").read_text())["seeds"]] == [1]
    assert results_of(folder / "seed-1" / "guided")["steps"] == 4
    assert (folder / "seed-1" / "guided" / "notes.txt").read_text() == "mine"
    assert not (folder / "seed-7").exists()
