from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attention_guidance.commands.pretraining.saving.checkpoints import (
    SEAL,
    checkpoints,
    damage,
    keep_newest,
    last_good,
    step_of,
    write_whole,
)
from attention_guidance.errors import RunError, SaveError


def save(folder: Path, step: int, text: str = "weights") -> Path:
    def write(into: Path) -> None:
        (into / "model").write_text(f"{text} {step}")
        (into / "more").mkdir()
        (into / "more" / "state").write_text("state")

    target = folder / f"checkpoint-{step}"
    write_whole(target, write)
    return target


def test_what_is_written_is_there_and_whole(tmp_path):
    checkpoint = save(tmp_path, 10)
    assert damage(checkpoint) is None
    assert {path.name for path in checkpoint.rglob("*")} == {"model", "more", "state", SEAL}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise OSError("disk full")

    with pytest.raises(SaveError, match=f"could not write {tmp_path}/checkpoint-1: disk full"):
        write_whole(tmp_path / "checkpoint-1", fail)
    assert list(tmp_path.iterdir()) == []
    whole = save(tmp_path, 1)
    with pytest.raises(SaveError, match="disk full"):
        write_whole(whole, fail)
    assert damage(whole) is None
    assert (whole / "model").read_text() == "weights 1"


def test_a_signal_during_the_cleanup_leaves_nothing(tmp_path, monkeypatch):
    rmtree, interruptions = shutil.rmtree, [KeyboardInterrupt]

    def interrupted(path, **how):
        if interruptions:
            raise interruptions.pop()
        rmtree(path, **how)

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "model", lambda folder: (folder / "weights").touch())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_replacing(tmp_path):
    save(tmp_path, 3)
    replaced = save(tmp_path, 3, "other weights")
    assert (replaced / "model").read_text() == "other weights 3"
    assert damage(replaced) is None
    assert list(tmp_path.iterdir()) == [replaced]


def test_what_an_earlier_death_left_is_no_hindrance(tmp_path):
    (tmp_path / "partial" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "partial" / "checkpoint-2" / "model").write_text("half")
    assert checkpoints(tmp_path) == []
    assert list(save(tmp_path, 2).parent.iterdir()) == [tmp_path / "checkpoint-2"]


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda c: (c / "model").write_text("weights"), "model has changed"),
        (lambda c: (c / "model").write_text("weights 9"), "model has changed"),
        (lambda c: (c / "more" / "state").unlink(), "more/state is missing or unreadable"),
        (lambda c: (c / SEAL).unlink(), f"{SEAL} is missing or unreadable"),
        (lambda c: (c / SEAL).write_text((c / SEAL).read_text()[:30]), f"{SEAL} is missing or unreadable"),
        (lambda c: (c / SEAL).write_text("{}"), f"{SEAL} has changed"),
    ],
    ids=["truncated", "changed", "file missing", "seal missing", "seal truncated", "seal empty"],
)
def test_damage_is_seen_and_passed_over(harm, problem, tmp_path, caplog):
    good, bad = save(tmp_path, 5), save(tmp_path, 10)
    assert last_good(tmp_path) == bad
    harm(bad)
    assert damage(bad) == problem
    assert last_good(tmp_path) == good
    assert f"{bad} is damaged ({problem})" in caplog.text
    (good / "model").unlink()
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged \(the newest, checkpoint-10: "):
        last_good(tmp_path)


def test_no_checkpoint_at_all(tmp_path):
    assert last_good(tmp_path) is None
    assert last_good(tmp_path / "nowhere") is None


def test_checkpoints_go_by_step_not_by_name(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [step_of(path) for path in checkpoints(tmp_path)] == [9, 20, 100]
    keep_newest(tmp_path, tmp_path / "checkpoint-100", 2)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [20, 100]


def test_a_damaged_later_checkpoint_does_not_push_out_a_good_one(tmp_path):
    damaged, written = save(tmp_path, 12), save(tmp_path, 10)
    (damaged / "model").unlink()
    keep_newest(tmp_path, written, 1)
    assert checkpoints(tmp_path) == [written]
