"""What the reliability of the commands rests on: one table from what the benchmarks have kept.

    python -m benchmarks.reliability.summary --show

Reads the results of faults.py, fuzz.py, long_run.py and hostile_text.py; the ways to run code from data are those that
tests/commands/test_no_code_from_folders.py tries.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

from .. import BENCHMARKS
from ..turns import newest
from . import faults

_RESULTS = BENCHMARKS / "results"
_TESTS = BENCHMARKS.parent / "tests"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reliability.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--show", action="store_true", help="print the table (the default)")
    parser.parse_args()
    print("\n".join(f"| {' | '.join(row)} |" for row in [("what", "goal", "seen"), ("---",) * 3, *rows()]))
    return 0


def rows() -> list[tuple[str, str, str]]:
    """What is measured, its goal, and what was seen."""
    return [_faults(), *_fuzz(), _code(), *_long_run(), *_hostile_text()]


def _faults() -> tuple[str, str, str]:
    cases = faults.read(_RESULTS / "faults.jsonl")
    kinds, commands = ({case[name] for case in cases} for name in ("fault", "command"))
    _, _, _, as_promised, lost, wrong = faults.table(cases)[-1]
    return (
        f"{len(cases):,} cases of {len(kinds)} faults in {len(commands)} commands",
        "all end as promised; no checkpoint lost; no wrong result with exit code 0",
        f"{int(as_promised):,} as promised; {lost} lost; {wrong} wrong",
    )


def _fuzz() -> list[tuple[str, str, str]]:
    kept = map(json.loads, (_RESULTS / "fuzz.jsonl").read_text(encoding="utf-8").splitlines())
    of_targets = [line for line in kept if "cases" in line]
    found = []
    for kind, goal in (("text", "1,000,000"), ("json", "100,000"), ("binary", "")):
        lines = [line for line in of_targets if line["kind"] == kind]
        outcomes: dict[str, int] = {}
        for line in lines:
            for outcome, n in line["outcomes"].items():
                outcomes[outcome] = outcomes.get(outcome, 0) + n
        bad = sum(n for outcome, n in outcomes.items() if outcome not in ("read", "refused"))
        what = {"text": "text", "json": "JSON that is read back", "binary": "Parquet, arrays, compressed text"}[kind]
        found.append(
            (
                f"mutated inputs, {what}: {len(lines)} kinds of file",
                f"{goal}; no foreign exception, no hang".removeprefix("; "),
                f"{sum(line['cases'] for line in lines):,}; {bad} faults",
            )
        )
    return found


def _code() -> tuple[str, str, str]:
    sys.path[:0] = [str(_TESTS), str(_TESTS / "commands")]
    for path in (_TESTS / "commands").glob("attempts_by_*.py"):
        importlib.import_module(path.stem)  # adds to ATTEMPTS
    n = len(importlib.import_module("attempts").ATTEMPTS)
    return "ways tried to run code from data", "at least 60; none without a flag of the user's", f"{n}; none"


def _long_run() -> list[tuple[str, str, str]]:
    (record,) = newest(_RESULTS / "long_run.jsonl", "kind")
    what = {
        "memory": "resident memory",
        "files": "open files",
        "cpu_per_step": "CPU time of a step",
        "step_seconds": "wall time of a step",
    }
    return [
        (
            f"drift over {record['steps']:,} steps with {record['checkpoints']} checkpoints: {name}",
            "under 5 %",
            f"{record['drift'][key]:+.1%}",
        )
        for key, name in what.items()
    ]


def _hostile_text() -> list[tuple[str, str, str]]:
    def row(record: dict[str, Any]) -> tuple[str, str, str]:
        refused = ", refused" if record["exit_code"] else ""
        return (
            f"peak memory of `pretrain`, {record['megabytes']:,} MB in {record['case']}",
            "under 1.5 GB",
            f"{record['peak_bytes'] / 1e9:.2f} GB{refused}",
        )

    return [row(record) for record in newest(_RESULTS / "hostile_text.jsonl", "case", "megabytes")]


if __name__ == "__main__":
    sys.exit(main())
