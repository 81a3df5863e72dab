"""benchmarks/masked_head.py: whole at a tiny size, and what is kept is what the page says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*arguments):
    command = [sys.executable, ROOT / "benchmarks" / "masked_head.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True)


def test_whole_at_a_tiny_size(tmp_path):
    kept = tmp_path / "kept.jsonl"
    small = ["--preset", "tiny", "--vocabulary", "500", "--positions", "32", "--rounds", "2"]
    done = run(*small, "--results", kept)
    assert done.returncode == 0, done.stderr
    record = json.loads(kept.read_text())
    assert abs(record["losses"]["whole"] - record["losses"]["masked"]) < 1e-5
    assert f"{record['ratio']:.2f} (" in done.stdout
    assert run("--show", "--results", tmp_path / "none").stdout == "nothing is kept yet\n"


def test_what_is_kept_is_what_the_page_says():
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    for line in filter(None, run("--show").stdout.splitlines()):
        assert line in page, line
