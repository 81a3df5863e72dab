"""benchmarks/large_text.py: whole at a tiny size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import forked
from small_runs import made_up_text

ROOT = Path(__file__).parents[2]


def test_whole_at_a_tiny_size(tmp_path):
    (tmp_path / "text.txt").write_text(made_up_text(200))
    kept = tmp_path / "kept.jsonl"
    command = [sys.executable, ROOT / "benchmarks" / "large_text.py", "--text", tmp_path / "text.txt"]
    small = ["--gigabytes", "0.0005", "--piece", "0.0001", "--rounds", "2", "--results", kept]
    done = forked.run([*map(str, [*command, *small])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(kept.read_text())
    assert record["peak_mib"] >= record["libraries_mib"] > 50
    assert f"{record['ratio']:.2f} (" in done.stdout
    assert str(tmp_path) not in kept.read_text()


def test_the_docs_have_what_is_kept():
    command = [sys.executable, ROOT / "benchmarks" / "large_text.py", "--show"]
    shown = forked.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
    assert "10 GB" in shown
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    assert [row for row in shown.splitlines() if row not in page] == []
