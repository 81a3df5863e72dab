"""Benchmarks of a training step: each whole at a tiny size, and what is kept is what the pages say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from started import benchmark as run

ROOT = Path(__file__).parents[2]


def whole(benchmark, folder, *arguments):
    """What is kept of a run, each of it shown."""
    kept = folder / "kept.jsonl"
    done = run(benchmark, "--preset", "tiny", "--vocabulary", "500", "--rounds", "2", "--results", kept, *arguments)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    for record in records:
        assert f"{record['ratio']:.2f} (" in done.stdout
    return records


def test_masked_head(tmp_path):
    (record,) = whole("cost.masked_head", tmp_path, "--positions", "32")
    assert abs(record["losses"]["whole"] - record["losses"]["masked"]) < 1e-5


def test_short_attention(tmp_path):
    records = whole("cost.short_attention", tmp_path, "--tokens", "128", "--lengths", "16", "32")
    assert [record["length"] for record in records] == [16, 32]


@pytest.mark.parametrize(
    "benchmark",
    [
        "cost.masked_head",
        "cost.short_attention",
        "pretraining.equal_time",
        "pretraining.relative_weight",
        "pretraining.start_model",
    ],
)
def test_nothing_is_kept_yet(tmp_path, benchmark):
    assert run(benchmark, "--show", "--results", tmp_path / "none").stdout == "nothing is kept yet\n"


@pytest.mark.parametrize(
    ("benchmark", "page"),
    [
        ("cost.masked_head", "docs/pretraining.md"),
        ("cost.short_attention", "DESIGN.md"),
        ("pretraining.relative_weight", "docs/pretraining.md"),
        ("pretraining.equal_time", "docs/low-resource.md"),
        ("pretraining.start_model", "docs/low-resource.md"),
    ],
)
def test_what_is_kept_is_what_the_page_says(benchmark, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = run(benchmark, "--show").stdout.splitlines()
    assert lines
    for line in lines:
        assert line in text, line
