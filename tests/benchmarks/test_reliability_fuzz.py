"""The fuzzer finds no fault in some cases of each target, finds those that are planted, and continues."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from attention_guidance.errors import ConfigError
from benchmarks.reliability import fuzz


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_some_cases_of_each_target(tmp_path, name):
    fuzzer = fuzz.Fuzzer(name, tmp_path)
    assert list(fuzzer.run(40)) == []
    assert fuzzer.outcomes.keys() <= {"read", "refused"}
    assert fuzzer.outcomes.total() == 40


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_valid_files_are_read(tmp_path, name):
    """Or the fuzzer would only see that everything is refused."""
    target, path = fuzz.TARGETS[name], tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for content in target.seeds:
        assert "read" in {fuzz.outcome_of(target, path, number, content)[0] for number in range(12)}


def planted(monkeypatch, read, **more):
    target = dataclasses.replace(fuzz.TARGETS["gap.tsv"], read=read, **more)
    monkeypatch.setitem(fuzz.TARGETS, "gap.tsv", target)


def run(monkeypatch, results, *arguments, code=True):
    monkeypatch.setattr(sys, "argv", ["fuzz", "--target", "gap.tsv", "--results", str(results), *arguments])
    with pytest.raises(SystemExit, match=str(code)):
        fuzz.main()
    return [json.loads(line) for line in results.read_text().splitlines()]


def test_faults_are_found_and_a_second_call_continues(tmp_path, monkeypatch, capsys):
    def broken(path, chance):
        raise KeyError("x")

    planted(monkeypatch, broken)
    for n_cases in (2, 3):
        header, line, *faults = run(monkeypatch, tmp_path / "fuzz.jsonl", "--text", str(n_cases))
        assert header["versions"].keys() >= {"python", "torch"}
        assert (line["target"], line["cases"], line["outcomes"]) == ("gap.tsv", n_cases, {"KeyError": n_cases})
        assert [fault["number"] for fault in faults] == [*range(n_cases)]
    assert "KeyError 3" in capsys.readouterr().out
    planted(monkeypatch, lambda path, chance: None)
    run(monkeypatch, tmp_path / "fuzz.jsonl", "--again", code=False)


@pytest.mark.parametrize(
    ("said", "fault"), [("gap.tsv:1: x", None), ("x", "message"), ("gap.tsv\nx", "message"), (None, "TimeoutError")]
)
def test_what_counts_as_a_fault(tmp_path, monkeypatch, said, fault):
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def read(path, chance):
        while said is None:
            pass
        raise ConfigError(said)

    planted(monkeypatch, read)
    outcome, found = fuzz.outcome_of(fuzz.TARGETS["gap.tsv"], tmp_path / "gap.tsv", 0, b"")
    assert outcome == (fault or "refused")
    assert (found or {}).get("fault") == fault


def test_inputs_that_reach_new_code_are_kept_and_made_again(tmp_path):
    fuzzer = fuzz.Fuzzer("reflexives.txt", tmp_path)
    n_steps = len(fuzzer.steps)
    list(fuzzer.run(1000))
    assert len(fuzzer.steps) > n_steps
    again = fuzz.Fuzzer("reflexives.txt", tmp_path, json.loads(json.dumps(fuzzer.line())))
    assert again.inputs == fuzzer.inputs != []
    assert again.steps == fuzzer.steps
    assert [again.content(number) for number in range(1000, 1040)] == [
        fuzzer.content(number) for number in range(1000, 1040)
    ]
