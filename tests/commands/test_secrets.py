"""Passwords and tokens are in no file that a command writes, and in nothing that it prints."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import yaml
from small_runs import arguments, cli, corpus, whole_run

from attention_guidance.commands import results
from attention_guidance.commands.annotations.tagged import write_tagged
from attention_guidance.commands.finetuning.baselines.crf import Crf
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.prediction.saved import Partner, load_task, save_task
from attention_guidance.commands.plain import plain
from attention_guidance.commands.secrets import all_masked, has_masked, masked

__all__ = ["arguments", "cli", "corpus", "whole_run"]
PASSWORD = "s3cretPassw0rd"
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUv"
LOGIN = f"alice:{PASSWORD}@host"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://{LOGIN}/a/b.txt", "https://***@host/a/b.txt"),
        (f"s3://{PASSWORD}@10.0.0.1:80/a", "s3://***@10.0.0.1:80/a"),
        (f"/mnt/{LOGIN}/a.txt", "/mnt/***@host/a.txt"),
        (f"<dd>{LOGIN}/a.txt</dd>", "<dd>***@host/a.txt</dd>"),
        (f"--set hub_token={PASSWORD} -q", "--set hub_token=*** -q"),
        (f"https://host/x?API_KEY={PASSWORD}&n=1", "https://host/x?API_KEY=***&n=1"),
        (f"no token {TOKEN}, sk-{PASSWORD}abcd", "no token ***, ***"),
        ("ghp_0123456789abcdefghij", "***"),
        ("sk-ant-api03-Ab1Cd2Ef3Gh4Ij5Kl6Mn7-Op_q, github_pat_11ABCDEFG0abcdefghij", "***, ***"),
    ],
)
def test_secrets_are_masked(text, shown):
    assert masked(text) == plain(text) == shown
    assert has_masked(masked(text))


@pytest.mark.parametrize(
    "text",
    [
        "0-3:next@1 offset:-2@1; 0: first@2,3 given.x@0",
        "a@b.org, git@host",
        "token_classes: {comma: [',']}",
        '{"unk_token": "[UNK]", "mask_token": 3}',
        "objective: file.py:function",
        "12:30@5 hf_ hf_short sk-learn",
        "--token-class comma=, tokens=5",
        "corpora/sk-wikipedia-20240101-articles.txt /data/sk-wikipedia20240101articles",
        "/scratch/hf_datasets_cache_2024/hf_internalwikipediadumps",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


def test_values_of_the_environment(monkeypatch):
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "my_password"):
        monkeypatch.setenv(name, "plainword-42")
        assert masked("a plainword-42 b") == "a *** b"
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "plainword-42")
    monkeypatch.setenv("A_TOKEN", "true")
    assert masked("a plainword-42 b true") == "a plainword-42 b true"


def test_nested_values():
    value = {"corpus": [f"https://{LOGIN}/x"], "arguments": {"my_token": PASSWORD, "kwargs": {"n": 1, "secret": None}}}
    assert all_masked(value) == {
        "corpus": ["https://***@host/x"],
        "arguments": {"my_token": "***", "kwargs": {"n": 1, "secret": None}},
    }


def test_json_stays_json_and_has_no_secret(tmp_path, monkeypatch):
    """Secrets are found before quotes and backslashes in them are escaped."""
    monkeypatch.setenv("MY_PASSWORD", 'pa"ss\\word')
    monkeypatch.setenv("CI_JOB_TOKEN", "12345678")
    content = {"a": ['x token=a"b', "x token=a\\", 'pa"ss\\word'], "n": 12345678, f"//{LOGIN}": 1}
    results.write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "a": ['x token=***"b', "x token=***", "***"],
        "n": 12345678,
        "//***@host": 1,
    }


def test_texts_and_predictions_stay_as_they_are(tmp_path):
    results.write_data(tmp_path / "a", f"https://{LOGIN}/x")
    assert LOGIN in (tmp_path / "a").read_text()
    write_tagged(tmp_path / "b", [([LOGIN, "token=abc"], ["O", "B-X"], ["O", "O"])])
    assert (tmp_path / "b").read_text() == f"{LOGIN} O O\ntoken=abc B-X O\n"


def test_a_baseline_keeps_the_words_that_it_knows(tmp_path):
    """With words masked, a loaded baseline would predict other labels than the one that was scored."""
    crf = Crf({f"word={word}": np.zeros(2) for word in ("token=abc", "token=def", LOGIN)}, np.zeros((2, 2)))
    save_task(tmp_path, Data(get_task("ner"), ("O", "B-token=x"), {}, {}), Partner(crf, 0.5))
    data, partner = load_task(tmp_path)
    assert data.labels == ("O", "B-token=x")
    assert [*partner.model.features] == [*crf.features]


@pytest.fixture
def secret(tmp_path, corpus, whole_run, monkeypatch):
    """Folders of a text and of a tokenizer with a login in their paths; a token in the environment."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = tmp_path / "inputs" / LOGIN
    folder.mkdir(parents=True)
    shutil.copy(corpus, folder / "text.txt")
    shutil.copytree(whole_run / "tokenizer", folder / "tokenizer")
    shutil.copytree(whole_run / "model", folder / "model")
    (folder / "ner.conll").write_text("Ann B-X\nran O\n\nhe O\nran O\n\n" * 12)
    return folder


@pytest.fixture
def run(cli, capfd, monkeypatch):
    """Run a command as from a shell; what it prints has no secret."""

    def of(*words, code=0):
        words = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["attention-guidance", *words])
        ended = cli(*words)
        said = "".join(capfd.readouterr())
        assert ended == code, said
        assert PASSWORD not in said
        assert TOKEN not in said
        return said

    return of


def leaks(folder):
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) > 2
    return [
        path
        for path in found
        for secret in (PASSWORD, TOKEN)
        if secret.encode() in path.read_bytes() or secret in str(path.relative_to(folder))
    ]


SIZE = "--layers 1 --hidden 32 --attention-heads 2 --feed-forward 64 --block-size 32"
SHORT = (*SIZE.split(), "--batch-size", 4, "--heads", "next:1")


def test_a_run_and_its_resume(secret, run, tmp_path):
    out, text = tmp_path / "out", ("--max-steps", 4, "--save-every", 2, "--tokenizer", secret / "tokenizer")
    reported = ("--report-to", "tensorboard", "--set", f"run_name={TOKEN}", "--init-from", secret / "model")
    run("pretrain", secret / "text.txt", *text[:4], *SHORT[-2:], "-o", secret / "in", *reported)
    assert leaks(secret / "in") == []
    run("pretrain", secret / "text.txt", *text, *SHORT, "-o", out)
    assert leaks(out) == []
    assert yaml.safe_load((out / "run.yaml").read_text())["corpus"] == [
        str(tmp_path / "inputs" / "***@host" / "text.txt")
    ]
    for gone in ("results.json", "model"):
        (shutil.rmtree if gone == "model" else type(out).unlink)(out / gone)
    shutil.rmtree(out / "checkpoints" / "checkpoint-4")
    # Nothing of the secret is kept, so it must be given again.
    said = run("pretrain", "-o", out, "--resume", code=2)
    assert "***@host" in said
    assert "give it again" in said
    run("pretrain", secret / "text.txt", "--tokenizer", secret / "tokenizer", "-o", out, "--resume")
    assert leaks(out) == []


def test_studies_and_fine_tuning(secret, run, tmp_path):
    run("census", secret / "model", secret / "text.txt", "-o", tmp_path / "census", "--sequences", 4)
    run("report", secret / "model", "--text", secret / "text.txt", "-o", tmp_path / "report", "--sequences", 4)
    run("tokenizer", "train", secret / "text.txt", "--vocab-sizes", 280, "-o", tmp_path / "tokenizer")
    task = ("--train", secret / "ner.conll", "--dev", secret / "ner.conll", "--epochs", 1, "--seeds", 1)
    run("finetune", secret / "model", "--task", "ner", *task, "-o", tmp_path / "ner")
    run("predict", tmp_path / "ner" / "model", secret / "ner.conll", "-o", tmp_path / "ner" / "predicted.jsonl")
    run("compare", secret / "text.txt", "--max-steps", 2, *SHORT, "-o", tmp_path / "compare")
    for name in ("census", "report", "tokenizer", "ner", "compare"):
        assert leaks(tmp_path / name) == []


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", f"https://{LOGIN}/x.txt"),
        ("pretrain", "--dataset", f"https://{LOGIN}/x"),
        ("pretrain", "--init-from", f"https://{LOGIN}/x"),
        ("pretrain", "--tokenizer", f"https://{LOGIN}/x"),
        ("pretrain", "--config", f"/x/{LOGIN}/run.yaml"),
        ("pretrain", "--set", f"hub_token={TOKEN}"),
        ("pretrain", "--set", f"hub_tokens={PASSWORD}"),
        ("pretrain", "--set", f"lr_scheduler_kwargs={{api_key={PASSWORD}: 1}}"),
        ("pretrain", "--no-such-flag", f"https://{LOGIN}/x"),
        ("census", f"https://{LOGIN}/x"),
        ("predict", f"/x/{LOGIN}", f"/y/{LOGIN}"),
    ],
    ids=lambda words: " ".join(words[:2])[:30],
)
def test_errors(run, tmp_path, words):
    run(*words, "-o", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("line", [f"hub_token: {TOKEN}", f"hub_model_id: x/{PASSWORD}", "push_to_hub: true"])
def test_nothing_of_the_hub_is_kept(run, tmp_path, line):
    """A token among Trainer's arguments would be in every checkpoint."""
    (tmp_path / "run.yaml").write_text(f"arguments:\n  {line}\n")
    assert "use hf upload" in run("pretrain", "--config", tmp_path / "run.yaml", "-o", tmp_path / "out", code=2)
