"""Text from outside is data wherever a study prints it: names of files, models, labels and token classes."""

from __future__ import annotations

import json
import shutil
import unicodedata

import pytest

from attention_guidance.commands.printing import Console
from attention_guidance.commands.studies.census import report as print_census

MARKUP = "[bold]:smile:"
NASTY = MARKUP + "\x1b[31m\n\u202e"  # of files
SHOWN = MARKUP + r"\x1b[31m\n\u202e"
LABEL, LABEL_SHOWN = "[/x]" + MARKUP + "\x1b[31m\u202e", "[/x]" + MARKUP + r"\x1b[31m\u202e"


@pytest.fixture(scope="module")
def run(tmp_path_factory, whole_run):
    return shutil.copytree(whole_run, tmp_path_factory.mktemp("nasty") / f"run{NASTY}")


@pytest.fixture(scope="module")
def text(tmp_path_factory, corpus):
    """A file whose name is not UTF-8 either."""
    return shutil.copy(corpus, tmp_path_factory.mktemp("text") / f"text{NASTY}\udcff.txt")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Sentences of which every second word has a relation with a nasty name."""
    path = tmp_path_factory.mktemp("trees") / f"trees{NASTY}.conllu"
    words = [f"{i}\tabe\t_\tX\t_\t_\t{i - 1}\t{LABEL if i % 2 else 'root'}\t_\t_" for i in range(1, 9)]
    path.write_text(("\n".join(words) + "\n\n") * 12)
    return path


@pytest.fixture
def said(cli, capsys, monkeypatch):
    """What a command prints; nothing when it is quiet."""
    monkeypatch.setenv("COLUMNS", "500")

    def of(*arguments):
        *command, output = arguments
        capsys.readouterr()
        assert cli(*command, "-o", output, "-q") == 0
        assert capsys.readouterr().out == ""
        assert cli(*command, "-o", output, "--overwrite") == 0
        printed, warned = capsys.readouterr()
        odd = {c for c in printed + warned if unicodedata.category(c) in ("Cc", "Cs") or c == "\u202e"}
        assert odd <= {"\n"}
        for path in output.rglob("*.json"):
            json.loads(path.read_text(encoding="utf-8"))
        return printed

    return of


def test_census(tmp_path, said, run, text, capsys):
    arguments = [run, text, "--sequences", 2, "--similarity-rows", 2]
    shown = said("census", *arguments, "--token-class", f"{LABEL}=a b", tmp_path / NASTY)
    assert f"run{SHOWN}:thepatterneachhead" in "".join(shown.split())
    assert f"results: {tmp_path}/{SHOWN}/census.json" in shown
    content = json.loads((tmp_path / NASTY / "census.json").read_text(encoding="utf-8"))
    for head in content["snapshots"][-1]["heads"]:
        head["follows"] = LABEL
    print_census(Console(), content)
    assert capsys.readouterr().out.count(f" {LABEL_SHOWN} ") == 2


def test_probe_and_report(tmp_path, said, run, trees, text):
    shown = said("probe", run, trees, "--task", "dependency", tmp_path / "p")
    assert f"probing run{SHOWN}\n" in shown
    assert f"│ {LABEL_SHOWN} │" in shown
    arguments = [run, "--include", tmp_path / "p", "--text", text, "--sequences", 2, "--sentence", LABEL * 9]
    shown = said("report", *arguments, tmp_path / f"r{NASTY}")
    assert f"run{SHOWN}: maps of the first 32 tokens of" in shown
    assert f"open {tmp_path}/r{SHOWN}/report.html" in shown


def test_skill(tmp_path, said, many_checkpoints, sentences):
    run = shutil.copytree(many_checkpoints, tmp_path / f"run{NASTY}")
    assert f"│ run{SHOWN} " in said("skill", run, "--data", sentences, "--task", "reflexive", tmp_path / "s")


def test_tokenizer_inspect(tmp_path, said, run, text):
    shown = said("tokenizer", "inspect", run / "tokenizer", "--text", text, tmp_path / "t")
    assert rf"text{SHOWN}\udcff.txt" in shown
    assert shown.count(f"run{SHOWN}/tokenizer") == 2


def test_errors_are_one_plain_line(tmp_path, refusal, trees):
    for command in (["census", tmp_path / NASTY], ["probe", tmp_path / NASTY, trees, "--task", NASTY]):
        assert "\x1b" not in refusal(*command, "-o", tmp_path / "out")
