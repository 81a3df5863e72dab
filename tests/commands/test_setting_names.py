"""Errors and notes name settings, not flags: only the command line knows its flags, and translates them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import attention_guidance.commands as commands
from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining import pretrain as pretrain_module
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.errors import CorpusError

ROOT = Path(commands.__file__).parent
# Their dashes are those of CSS variables and HTML comments.
WEB = {"report/figures/svg.py", "report/page.py"}
# `--flag`, also where the name is formatted in: f"--{name}".
FLAG = re.compile(r"(?<![\w-])--([a-z]|$)")


def strings(source: str) -> set[str]:
    """The string constants of a module, except docstrings and the declared flags of settings (`flag="--set"`)."""
    tree = ast.parse(source)
    excluded: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                excluded.add(id(first.value))
        elif isinstance(node, ast.keyword) and node.arg == "flag":
            excluded.add(id(node.value))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in excluded
    }


def flags_in(source: str) -> set[str]:
    return {text for text in strings(source) if FLAG.search(text)}


def modules() -> list[Path]:
    places = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
    return [path for place, path in places.items() if not place.startswith("cli/") and place not in WEB]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_message_names_a_flag(path):
    assert flags_in(path.read_text(encoding="utf-8")) == set()


def test_flags_are_found_where_they_are_text():
    source = '''
"""Docstring with --flag."""
flag = setting(True, "text", flag="--no-baseline")
raise Error(f"{path}: raise --seeds")
lost = f"--{name}"
dashes = "a -- b", "var(--x)", "well--known"
'''
    assert flags_in(source) == {": raise --seeds", "--", "var(--x)"}


def test_printed_notes_name_what_the_user_gives(tmp_path, monkeypatch, capsys):
    """Settings in Python, flags on the command line; not only in errors."""

    def printed() -> str:
        return " ".join(capsys.readouterr().out.split())

    def prepare(config, say, folder):
        say("few tokens; raise `validation_share` or give files as `validation`, with seed=7")
        raise CorpusError("enough")

    monkeypatch.setattr(pretrain_module, "prepare_data", prepare)
    with pytest.raises(CorpusError):
        pretrain_module.pretrain(RunConfig(seed=7), tmp_path / "run")
    assert "raise `validation_share` or give files as `validation`, with seed=7" in printed()
    with pytest.raises(SystemExit):
        main(["pretrain", "-o", str(tmp_path / "run"), "--seed", "7"])
    assert "raise --validation-share or give files as --validation, with --seed 7" in printed()
