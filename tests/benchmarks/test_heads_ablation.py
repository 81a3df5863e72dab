"""benchmarks/heads/ablation.py on a small run."""

from __future__ import annotations

import json
from functools import partial

import pytest
from small_runs import arguments, cli, corpus, whole_run
from started import benchmark

__all__ = ["arguments", "cli", "corpus", "whole_run"]


run = partial(benchmark, "heads.ablation")


def test_ablation_of_a_run(whole_run, corpus, tmp_path):
    kept = tmp_path / "kept.jsonl"
    done = run(whole_run, "--text", corpus, "--tokens", "600", "--results", kept)
    assert done.returncode == 0, done.stderr
    records = [*map(json.loads, kept.read_text().splitlines())]
    assert [record["to"] for record in records] == ["zero", "mean", "pattern"]
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].strip("|").split("|")]
    found = [head["difference"]["value"] for head in records[0]["heads"] if head["guided_toward"] == "next"]
    assert cells[:3] == [whole_run.name, f"{records[0]['loss']['value']:.3f}", "zero"]
    assert float(cells[3]) == pytest.approx(sum(found) / len(found), abs=6e-4)
    assert run(tmp_path / "none", "--results", kept).returncode == 2
