"""What a folder holds is data: code in it runs only where the user named it."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import arguments, cli, corpus, whole_run

import attention_guidance

__all__ = ["arguments", "cli", "corpus", "whole_run"]
SOURCES = Path(attention_guidance.__file__).parent
CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast
class Config(BertConfig):
    model_type = "theirs"
class Model(BertForMaskedLM):
    config_class = Config
class Tokenizer(BertTokenizerFast):
    pass
"""
OBJECTIVE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
def own(ids_T, free_N, tokenizer, generator):
    labels_T = ids_T * 0 - 100
    labels_T[free_N[:3]] = ids_T[free_N[:3]]
    return ids_T, labels_T
"""


def loads_untrusting(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    value = given.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def loading_calls(source: str) -> list[ast.Call]:
    """Calls of `x.from_pretrained` and `x.from_config`; a configuration can name code too."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
    ]


def test_every_load_refuses_code():
    calls = [(path, call) for path in SOURCES.rglob("*.py") for call in loading_calls(path.read_text())]
    assert len(calls) > 12
    assert [f"{path}:{call.lineno}" for path, call in calls if not loads_untrusting(call)] == []


def test_the_sweep_sees_a_load_that_does_not():
    for given, fine in (("x", False), ("x, trust_remote_code=True", False), ("x, trust_remote_code=False", True)):
        (call,) = loading_calls(f"AutoModel.from_pretrained({given})")
        assert loads_untrusting(call) is fine


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that strange code would write; standard input answers every question with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    return tmp_path / "mark"


@pytest.fixture
def strange(whole_run, tmp_path, mark):
    """A model's folder with a configuration, a model and a tokenizer of its own code."""
    folder = Path(shutil.copytree(whole_run / "model", tmp_path / "strange"))
    (folder / "theirs.py").write_text(CODE.format(mark=str(mark)))
    classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForMaskedLM": "Model"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {name: f"theirs.{kind}" for name, kind in classes.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_code_of_a_model_does_not_run(strange, mark, corpus, whole_run, arguments, cli, tmp_path, capsys):
    run = ["pretrain", corpus, "--max-steps", "1", "-o", tmp_path / "out", "-q"]
    cli(*run, "--init-from", strange, "--tokenizer", whole_run / "tokenizer")
    assert not mark.exists()
    cli("pretrain", *[a for a in arguments if a not in ("--vocab-size", "280")], "--tokenizer", strange,
        "--max-steps", "1", "-o", tmp_path / "out", "-q")  # fmt: skip
    assert not mark.exists()
    cli("census", strange, "-o", tmp_path / "census", "-q")
    assert not mark.exists()
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in said)
    assert "strange" in said[0]


@pytest.fixture
def theirs(corpus, tmp_path, mark, arguments, cli):
    """A run.yaml that names an objective's file."""
    (tmp_path / "theirs.py").write_text(OBJECTIVE.format(mark=str(mark)))
    objective = f"{tmp_path / 'theirs.py'}:own"
    run = tmp_path / "mine"
    assert cli("pretrain", *arguments, "--objective", objective, "--max-steps", "2", "-o", run, "-q") == 0
    assert mark.exists(), "named on the command line, it runs"
    mark.unlink()
    assert yaml.safe_load((run / "run.yaml").read_text())["objective"] == objective
    return run, objective


def test_an_objective_that_a_file_names_runs_only_when_trusted(theirs, mark, cli, tmp_path, capsys):
    run, objective = theirs
    (run / "results.json").unlink()
    fresh = ["pretrain", "--config", run / "run.yaml", "-o", tmp_path / "new", "-q"]
    resumed = ["pretrain", "-o", run, "--resume", "-q"]
    compared = ["compare", *fresh[1:]]
    for line, source in ((fresh, run / "run.yaml"), (compared, run / "run.yaml"), (resumed, run / "run.yaml")):
        assert cli(*line) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"error: objective={objective!r} in {source} would run code")
        assert "--trust-objective" in said
        assert not mark.exists()
        assert not (tmp_path / "new").exists()
    for trusted in (["--trust-objective"], ["--objective", objective]):
        assert cli(*resumed, *trusted) == 0
        assert mark.exists()
        mark.unlink()
        (run / "results.json").unlink()
    # Nothing of it is kept: the flag is each command's own.
    assert "trust" not in (run / "run.yaml").read_text()
    assert cli(*resumed) == 2
