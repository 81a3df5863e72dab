"""benchmarks/heads/looking.py: what is kept is shown, and its parts can be had at small sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from started import benchmark

ROOT = Path(__file__).parents[2]


run = partial(benchmark, "heads.looking")


def test_what_is_kept_is_what_the_page_says():
    shown = run("--show")
    assert shown.returncode == 0, shown.stderr
    page = (ROOT / "docs" / "looking.md").read_text(encoding="utf-8")
    for line in filter(None, shown.stdout.splitlines()):
        assert line in page, line


def test_nothing_kept_and_nothing_named(tmp_path):
    assert run("--show", "--results", tmp_path / "none.jsonl").stdout == "nothing is kept yet\n"
    asked = run()
    assert asked.returncode == 2
    assert "name a part" in asked.stderr
