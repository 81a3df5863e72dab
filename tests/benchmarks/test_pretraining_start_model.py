"""The benchmark of start models: whole at a tiny size."""

from __future__ import annotations

import json
from functools import partial

import pytest
from small_runs import cli, made_up_text
from started import benchmark

__all__ = ["cli"]


run = partial(benchmark, "pretraining.start_model")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "made-up"
    folder.mkdir(parents=True)
    lines = made_up_text(700).splitlines(keepends=True)
    (folder / "train.txt").write_text("".join(lines[:600]))
    (folder / "valid.txt").write_text("".join(lines[600:]))
    return folder.parent


def test_both_arms_have_one_tokenizer_and_one_length(tmp_path, data, cli):
    train, start, kept = data / "made-up" / "train.txt", tmp_path / "start", tmp_path / "kept.jsonl"
    quick = ["--preset", "tiny", "--max-steps", "2", "--vocab-size", "300", "--report-to", "none", "-q"]
    assert cli("pretrain", train, *quick, "-o", start) == 0
    arguments = ["--start", start, "--called", "Made-up", "--text", "made-up", "--data", data, "--results", kept]
    done = run(*arguments, "--preset", "tiny", "--steps", "2", "--megabytes", "0.03")
    assert done.returncode == 0, done.stderr
    nothing, started = (json.loads(line) for line in kept.read_text().splitlines())
    assert (nothing["arm"], nothing["new_tokens"], started["arm"]) == (
        "from random weights",
        None,
        "from the start model",
    )
    assert started["new_tokens"]["shared"] > 0.3
    assert nothing["model"] == started["model"]
    for record in (nothing, started):
        assert [point["step"] for point in record["curve"]] == [0, 1, 2]
        assert f"{record['final_loss']:.3f} | {record['final_accuracy']:.1%}" in done.stdout
    assert run("--results", kept, "--data", tmp_path / "nowhere").returncode == 2
