"""`pretrain --push-to-hub`, against a hub in this process: what is refused before training, and what is uploaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers.utils.hub
from huggingface_hub import constants
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention_guidance.commands.pretraining.loop.trainer import PretrainingTrainer
from attention_guidance.commands.pretraining.saving.model_card import model_card

TOKEN = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ"


class FakeHub:
    """Keeps what it is given; fails if told to."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.created, self.fails = folder, [], ""

    def create_repo(self, name, *, private=None, exist_ok=False):
        if self.fails == "create":
            raise OSError(f"401 Unauthorized for {TOKEN}")
        assert exist_ok
        self.created.append((name, private))
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, commit_message):
        if self.fails == "upload":
            raise OSError(f"connection reset for {TOKEN}")
        shutil.copytree(folder_path, self.folder / repo_id, ignore=shutil.ignore_patterns(*ignore_patterns))
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    made = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(transformers.utils.hub, "hf_api", lambda: made)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return made


@pytest.fixture
def finished(tmp_path, whole_run):
    return shutil.copytree(whole_run, tmp_path / "sw")


def said(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert TOKEN not in lines[0]
    return lines[0]


def test_the_saved_model_is_what_is_pushed(tmp_path, hub, cli, arguments, capsys):
    out = tmp_path / "run"
    short = ["--max-steps", 2, "--save-every", 2, "--eval-every", 2]
    flags = ["--push-to-hub", "--hub-model-id", "tiny", "--hub-private-repo"]
    assert cli("pretrain", *arguments, *short, "-o", out, *flags) == 0
    assert "pushed to https://hub/me/tiny" in " ".join(capsys.readouterr().out.split())
    assert hub.created == [("tiny", True)] * 2  # before training, and for the upload
    pushed = hub.folder / "me" / "tiny"
    names = {path.name for path in (out / "model").iterdir()}
    assert {path.name for path in pushed.iterdir()} == names - {"seal.json"}
    for name in ("README.md", "model.safetensors"):
        assert (pushed / name).read_bytes() == (out / "model" / name).read_bytes()
    AutoModelForMaskedLM.from_pretrained(pushed)
    AutoTokenizer.from_pretrained(pushed)
    assert "hub" not in (out / "run.yaml").read_text()
    assert all(TOKEN not in path.read_text(errors="replace") for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ("offline", ("--push-to-hub",), "--push-to-hub: the hub is switched off by HF_HUB_OFFLINE; unset it"),
        ("no token", ("--push-to-hub",), "--push-to-hub: there is no token of the Hugging Face hub; set HF_TOKEN"),
        ("create", ("--push-to-hub",), "hub_model_id='run': the hub does not accept it (401 Unauthorized for ***)"),
        ("", ("--hub-model-id", "a"), "--hub-model-id needs --push-to-hub"),
        ("", ("--hub-private-repo",), "--hub-private-repo needs --push-to-hub"),
    ],
)
def test_what_is_refused_before_training(tmp_path, hub, cli, arguments, capsys, monkeypatch, change, more, message):
    monkeypatch.setattr(PretrainingTrainer, "train", None)
    if change == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if change == "no token":
        monkeypatch.delenv("HF_TOKEN")
    hub.fails = change
    assert cli("pretrain", *arguments, "-o", tmp_path / "run", *more, "-q") == 2
    assert message in said(capsys)
    assert not hub.created
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_pushed_without_training(hub, cli, finished, capsys, monkeypatch):
    monkeypatch.setattr(PretrainingTrainer, "train", None)
    hub.fails = "upload"
    assert cli("pretrain", "-o", finished, "--resume", "--push-to-hub", "-q") == 1
    message = said(capsys)
    assert f"the model in {finished / 'model'} could not be pushed to me/sw (connection reset for ***)" in message
    assert "try again with --resume and --push-to-hub" in message
    hub.fails = ""
    assert cli("pretrain", "-o", finished, "--resume", "--push-to-hub", "-q") == 0
    assert hub.created[-1] == ("sw", None)
    assert (hub.folder / "me" / "sw" / "model.safetensors").exists()


def test_the_card_names_the_guidance(whole_run):
    results = json.loads((whole_run / "results.json").read_text())
    card = (whole_run / "model" / "README.md").read_text()
    assert "| guided heads, in every layer unless stated | `next:1` |\n| guided heads by pattern | next 1 |\n" in card
    schedule = "hold-then-linear (from 20% of the run to 0 at 100% of the run)"
    assert f"| guidance | weight 0.1, {schedule}; squared_error, query |\n" in card
    heads = [{"pattern": "previous|next"}, {"pattern": "first"}, {"pattern": "first"}]
    config = results["config"] | {"heads": "previous|next:1", "schedule": "cosine", "hold": 20_000, "end": 0.5}
    card = model_card(results | {"config": config, "guidance": heads})
    assert r"| guided heads by pattern | previous\|next 1, first 2 |" in card
    assert "weight 0.1, cosine (from step 20,000 to 0 at 50% of the run);" in card
    for schedule, shown in (("linear", "linear (to 0 at 50% of the run);"), ("constant", "constant; squared_error")):
        assert shown in model_card(results | {"config": config | {"schedule": schedule}, "guidance": heads})
    assert "| guided heads | none |" in model_card(results | {"config": config | {"heads": ""}, "guidance": []})
