"""benchmarks/pretraining/large_text.py: whole at a tiny size."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from small_runs import made_up_text
from started import benchmark

ROOT = Path(__file__).parents[2]


run = partial(benchmark, "pretraining.large_text")


def test_whole_at_a_tiny_size(tmp_path):
    (tmp_path / "text.txt").write_text(made_up_text(200))
    kept = tmp_path / "kept.jsonl"
    small = ["--gigabytes", "0.0005", "--piece", "0.0001", "--rounds", "2", "--results", kept]
    done = run("--text", tmp_path / "text.txt", *small)
    assert done.returncode == 0, done.stderr
    record = json.loads(kept.read_text())
    assert record["peak_mib"] >= record["libraries_mib"] > 50
    assert f"{record['ratio']:.2f} (" in done.stdout
    assert str(tmp_path) not in kept.read_text()


def test_the_docs_have_what_is_kept():
    shown = run("--show", check=True).stdout
    assert "10 GB" in shown
    page = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
    assert [row for row in shown.splitlines() if row not in page] == []
