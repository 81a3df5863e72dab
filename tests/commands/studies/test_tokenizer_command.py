"""The command `tokenizer`: trains, looks, compares, refuses."""

from __future__ import annotations

import json
import random
import signal
import string
import subprocess
import sys
import time

import pytest

from attention_guidance.commands.tokenization.kinds import KINDS, train_kind
from benchmarks import forked


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = ["the", "cat", "sees", "a", "house", "river", "follows", "ẹ̀kọ́"]
    path.write_text("\n".join(" ".join(words[(n + k) % 8] for k in range(6)) + f" {n}" for n in range(300)))
    return path


def test_train_inspect_and_pretrain_with_it(tmp_path, cli, text, capsys):
    out = tmp_path / "tok"
    train = ["tokenizer", "train", text, "--kinds", "bpe", "unigram", "--vocab-sizes", "270", "-o", out]
    assert cli(*train) == 2  # a unigram of so few words is smaller
    assert "this text supports only" in capsys.readouterr().err
    assert cli(*train[:-4], "-o", out, "--overwrite") == 0
    content = json.loads((out / "tokenizers.json").read_text())
    assert (content["kind"], content["corpus"].rpartition("/")[2]) == ("tokenizer", "text.txt")
    assert content["documents"] == 30
    names = [row["name"] for row in content["tokenizers"]]
    assert names == ["bpe-512", "unigram-512"]
    assert "never" in capsys.readouterr().out
    assert [(row["lost"], row["lost_characters"]) for row in content["tokenizers"]] == [(0, {}), (0, {})]
    look = tmp_path / "look"
    assert cli("tokenizer", "inspect", out / names[0], out / names[1], "--text", text, "-o", look, "-q") == 0
    seen = json.loads((look / "tokenizers.json").read_text())
    assert [row["vocabulary"] for row in seen["tokenizers"]] == [row["vocabulary"] for row in content["tokenizers"]]
    assert seen["documents"] == 300
    run = [
        "pretrain",
        text,
        "--batch-size",
        "2",
        "--tokenizer",
        out / "unigram-512",
        "--preset",
        "tiny",
        "--max-steps",
        "2",
    ]
    assert cli(*run, "--objective", "whole-word", "-o", tmp_path / "run", "-q") == 0
    # A run is taken for its tokenizer, here and beside others.
    assert cli("tokenizer", "inspect", tmp_path / "run", "--text", text, "-o", look, "-q", "--overwrite") == 0
    (of_run,) = json.loads((look / "tokenizers.json").read_text())["tokenizers"]
    assert of_run["vocabulary"] == seen["tokenizers"][1]["vocabulary"]
    beside = ["tokenizer", "train", text, "--beside", tmp_path / "run", "-o", tmp_path / "two", "-q"]
    assert cli(*beside) == 0
    assert len(json.loads((tmp_path / "two" / "tokenizers.json").read_text())["tokenizers"]) == 2


def test_one_blank_line_does_not_take_half_of_the_text(tmp_path, cli, text, capsys):
    lines = text.read_text().split("\n")
    (tmp_path / "blank.txt").write_text("\n".join([*lines[:150], "", *lines[150:]]))
    train = ["tokenizer", "train", tmp_path / "blank.txt", "--vocab-sizes", "270"]
    assert cli(*train, "-o", tmp_path / "out") == 0
    (row,) = json.loads((tmp_path / "out" / "tokenizers.json").read_text())["tokenizers"]
    assert 0.05 <= row["bytes"] / text.stat().st_size <= 0.2
    assert "characters are few to evaluate tokenizers" in capsys.readouterr().out


def test_what_is_refused(tmp_path, cli, text, capsys):
    cases = {
        "expected one of bpe": ["train", text, "--kinds", "words"],
        "no such folder": ["inspect", tmp_path / "nowhere", "--text", text],
        "given twice": ["inspect", "a", "a", "--text", text],
        "at least 261": ["train", text, "--vocab-sizes", "20"],
        "nothing.txt": ["train", tmp_path / "nothing.txt"],
    }
    for message, arguments in cases.items():
        assert cli("tokenizer", *arguments, "-o", tmp_path / "out") == 2, message
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_characters_that_are_lost_are_shown(tmp_path, cli, text, capsys):
    train_kind("wordpiece", ["the cat sees"] * 9, 300, max_length=64, at_most=True).save_pretrained(tmp_path / "few")
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("the cat می\u200cها\nthe\u200ccat\n")
    assert cli("tokenizer", "inspect", tmp_path / "few", "--text", foreign, "-o", tmp_path / "look") == 0
    (row,) = json.loads((tmp_path / "look" / "tokenizers.json").read_text())["tokenizers"]
    assert row["lost_characters"] == {"\u200c": 2, "م": 1, "ی": 1, "ه": 1, "ا": 1}
    assert row["lost"] == pytest.approx(6 / 18)
    assert "few: loses U+200C ZERO WIDTH NON-JOINER (2 times)" in " ".join(capsys.readouterr().out.split())


def test_long_words_are_told(tmp_path, cli, capsys):
    dna = tmp_path / "dna.txt"
    dna.write_text("\n".join("".join(random.Random(n).choices("ACGT", k=3000)) for n in range(10)))
    for kind in KINDS:
        train = ["tokenizer", "train", dna, "--kinds", kind, "-o", tmp_path / kind]
        assert cli(*train) == 0
        assert "12 words of more than 128 characters (the longest of 3," in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_while_a_tokenizer_is_trained(tmp_path, kind):
    chance = random.Random(0)
    hard = tmp_path / "hard.txt"
    hard.write_text("\n".join("".join(chance.choices(string.ascii_letters, k=10_000)) for _ in range(300)))
    train = ["tokenizer", "train", hard, "--kinds", kind, "--vocab-sizes", "30000", "-o", tmp_path / "out"]
    command = [sys.executable, "-m", "attention_guidance", *map(str, train)]
    process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"training {kind}-30000")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, "error: interrupted\n")
