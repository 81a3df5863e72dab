"""A finished run whose model is missing or damaged is not called finished: a resume makes its model again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from small_runs import assert_same_weights, one_line


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink, lambda file: shutil.rmtree(file.parent)])
def test_a_damaged_model_is_made_again(whole_run, cli, tmp_path, harm, caplog, capsys):
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    harm(folder / "model" / "model.safetensors")
    assert cli("pretrain", "-o", folder, "--resume", "-q") == 0
    (said,) = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert said.startswith(f"{folder}/model is damaged (")
    assert said.endswith("); it is made again from the last checkpoint")
    assert_same_weights(folder, whole_run)
    results, whole = (json.loads((path / "results.json").read_text()) for path in (folder, whole_run))
    assert results["final_loss"] == whole["final_loss"]
    assert results["curve"] == whole["curve"]
    # Without a checkpoint it would be trained from the start.
    shutil.rmtree(folder / "checkpoints")
    (folder / "model" / "model.safetensors").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert cli("pretrain", "-o", folder, "--resume", "-q") == 2
    line = one_line(capsys.readouterr().err)
    assert line == (
        f"error: the run in {folder} is finished, but its model is damaged ({folder}/model: model.safetensors is "
        "missing or unreadable) and no checkpoint is left; restore the model from a copy, or train again with "
        "--overwrite"
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_edited_card_is_no_damage(whole_run, cli, tmp_path, caplog):
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    (folder / "model" / "README.md").write_text("My model.")
    assert cli("pretrain", "-o", folder, "--resume", "-q") == 0
    assert (folder / "model" / "README.md").read_text() == "My model."
    assert not caplog.records
