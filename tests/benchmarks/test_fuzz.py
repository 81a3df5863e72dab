"""The fuzzer finds no fault in some cases of each target, finds one that is planted, and continues."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_some_cases_of_each_target(tmp_path, target):
    for seed in range(10_000, 10_012):
        case = fuzz.run_case(target, seed, tmp_path)
        assert "fault" not in case, case
        assert case["outcome"] in ("read", "refused")


def test_valid_files_are_read(tmp_path, monkeypatch):
    """Or the fuzzer would only see that everything is refused."""
    monkeypatch.setattr("fuzz_files.mutated_bytes", lambda content, chance: content)
    monkeypatch.setattr("fuzz_files.mutated_json", lambda content, chance: content)
    for target in fuzz.TARGETS:
        outcomes = {fuzz.run_case(target, seed, tmp_path)["outcome"] for seed in range(20)}
        assert "read" in outcomes, target


def test_faults_are_found_and_cases_are_kept(tmp_path, monkeypatch, capsys):
    def broken(path, chance):
        raise KeyError("x")

    planted = dataclasses.replace(fuzz.TARGETS["text.txt"], read=broken)
    monkeypatch.setitem(fuzz.TARGETS, "text.txt", planted)
    results = tmp_path / "fuzz.jsonl"
    for n_cases in (2, 3):
        arguments = ["fuzz.py", "--target", "text.txt", "--cases", str(n_cases), "--results", str(results)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit, match="True"):
            fuzz.main()
    cases = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(case["seed"], case["fault"]) for case in cases] == [(0, "KeyError"), (1, "KeyError"), (2, "KeyError")]
    assert "KeyError" in capsys.readouterr().out
