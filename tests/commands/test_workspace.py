"""What an output folder holds, and what --resume and --overwrite do with it: alike for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.workspace import (
    COMPARISON,
    DOWNSTREAM,
    FINE_TUNING,
    RECIPE,
    RUN,
    Kind,
    State,
    Workspace,
)
from attention_guidance.errors import RunError

TRAINED = [RUN, COMPARISON, FINE_TUNING, DOWNSTREAM, RECIPE]
CENSUS = Kind("census.json", finished="census.json")
# A file for each pattern that stands for several.
NAMES = {"seed-*/*": "seed-1/guided", "checkpoint-*": "checkpoint-3", "[0-9a-f]" * 32: "0123456789abcdef" * 2, "*": "x"}
# What --resume of the same request, --resume of another, --overwrite and both come to; None stands for an error.
FLAGS = [(False, False), (True, False), (False, True), (True, True)]


def put(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for glob, name in NAMES.items():
            pattern = pattern.replace(glob, name)
        (folder / pattern).parent.mkdir(parents=True, exist_ok=True)
        (folder / pattern).write_text(pattern)


def there(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def claim(folder: Path, kind: Kind, resume: bool, overwrite: bool, other: str | None = None) -> State | str:
    """What becomes of it, or the error; nothing is written that stays."""
    before = there(folder)
    try:
        with until_done():
            return Workspace(folder, kind).claim(resume=resume, overwrite=overwrite, other=lambda: other)
    except RunError as error:
        return str(error)
    finally:
        assert there(folder) == before


@pytest.mark.parametrize("kind", [*TRAINED, CENSUS], ids=lambda kind: kind.name)
class TestStatesAndFlags:
    @pytest.mark.parametrize("left", [None, [], ["run.yaml.partial", "partial/x/model.safetensors"]])
    @pytest.mark.parametrize(("resume", "overwrite"), FLAGS)
    def test_nothing_is_there(self, tmp_path, kind, left, resume, overwrite):
        folder = tmp_path / "out"
        if left is not None:
            folder.mkdir()
            put(folder, *left)
        assert claim(folder, kind, resume, overwrite) is State.NOTHING

    @pytest.mark.parametrize("finished", [False, True])
    def test_what_the_command_has_made(self, tmp_path, kind, finished):
        if not (finished or kind.begun):
            return
        put(tmp_path, kind.sign, kind.finished if finished else kind.begun[0], "notes.txt")
        held = State.FINISHED if finished else State.BEGUN
        holds = f"output={tmp_path} holds {kind.name} already; "
        replace = "replace it with `overwrite`, or give another folder"
        go_on = "continue it with `resume`, " if kind.begun else ""
        assert claim(tmp_path, kind, False, False) == f"{holds}{go_on}{replace}"
        assert claim(tmp_path, kind, False, True) is State.NOTHING
        assert claim(tmp_path, kind, True, False) is held
        assert claim(tmp_path, kind, True, True) is held
        assert claim(tmp_path, kind, True, False, "another") == f"output={tmp_path} holds another; {replace}"
        assert claim(tmp_path, kind, True, True, "another") is State.NOTHING

    @pytest.mark.parametrize(("resume", "overwrite"), FLAGS)
    @pytest.mark.parametrize("other", TRAINED, ids=lambda kind: kind.name)
    def test_what_another_command_has_trained(self, tmp_path, kind, other, resume, overwrite):
        if kind is other:
            return
        put(tmp_path, other.sign, other.finished)
        assert claim(tmp_path, kind, resume, overwrite) == f"output={tmp_path} holds {other.name}; give another folder"

    @pytest.mark.parametrize("resume", [False, True])
    def test_files_of_others(self, tmp_path, kind, resume):
        put(tmp_path, "thesis.tex", "fits/mine/mine.txt", "seed-one/notes.txt")
        what = kind.name.removeprefix("a ")
        said = f"output={tmp_path} is not empty and holds no {what}; give another folder, or "
        assert claim(tmp_path, kind, resume, False) == f"{said}`overwrite` to keep its files and write beside them"
        assert claim(tmp_path, kind, resume, True) is State.NOTHING
        # What has the name of what would be replaced was not written by this command.
        for pattern in kind.owned[:1]:
            put(tmp_path, pattern)
            if Workspace(tmp_path, kind).state is State.FOREIGN:
                assert claim(tmp_path, kind, resume, True) == f"{said}move {pattern} away"

    def test_what_is_replaced(self, tmp_path, kind):
        put(tmp_path, "notes.txt", "seed-1/guided/mine.txt", "guided/mine.txt", "checkpoint-3")
        before = there(tmp_path)
        put(tmp_path, *kind.owned)
        (tmp_path / "seed-2" / "guided").mkdir(parents=True)
        Workspace(tmp_path, kind).clear()
        assert there(tmp_path) == before
        assert (tmp_path / "seed-2").exists() == (kind is not COMPARISON)

    def test_what_is_read_is_not_replaced(self, tmp_path, kind):
        if not kind.owned:
            return
        put(tmp_path, kind.sign, kind.finished, *kind.owned)
        (used,) = Workspace(tmp_path, kind)._find(*kind.owned[:1])
        with pytest.raises(RunError, match=r"this would replace .*, which the command reads; give another folder"):
            Workspace(tmp_path, kind).claim(overwrite=True, uses=[tmp_path / "notes.txt", used])


@pytest.mark.parametrize("kind", [RUN, COMPARISON], ids=lambda kind: kind.name)
def test_settings_and_a_tokenizer_of_ones_own_are_no_run(tmp_path, kind):
    """As for `--config DIR/run.yaml --tokenizer DIR/tokenizer -o DIR`: the tokenizer would be lost."""
    put(tmp_path, "run.yaml")
    assert claim(tmp_path, kind, False, False) is State.NOTHING
    put(tmp_path, "tokenizer/tokenizer.json")
    assert "is not empty and holds no" in str(claim(tmp_path, kind, False, False))
    assert "tokenizer" in str(claim(tmp_path, kind, False, True)).rpartition("move ")[2]


@pytest.mark.parametrize(
    "mine", ["results.json", "checkpoints/checkpoint-3/optimizer.pt", "stepped", "model/config.json"]
)
def test_common_names_alone_are_no_run(tmp_path, mine):
    """What Trainer of transformers writes elsewhere is not taken for a run's, and not removed."""
    put(tmp_path, mine)
    assert Workspace(tmp_path, RUN).state is State.FOREIGN
    assert f"move {Path(mine).parts[0]} away" in str(claim(tmp_path, RUN, False, True))


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    put(tmp_path, "disk/checkpoint-3", "out/run.yaml", "out/results.json")
    (tmp_path / "out" / "checkpoints").symlink_to(tmp_path / "disk")
    Workspace(tmp_path / "out", RUN).clear()
    assert there(tmp_path) == {"disk/checkpoint-3": "disk/checkpoint-3"}
