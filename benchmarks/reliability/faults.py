"""Let faults happen to every command, and check what is left: kills, full disks, signals, lost workers and memory.

Each case is a fault, a command and a moment. A command must end with the exit code of its fault and one line, without a
traceback; lose no complete checkpoint; and, called again, give what it gives without a fault, bit by bit. Results are
JSON lines; cases that they hold are not run again.

    python -m benchmarks.reliability.faults --seeds 20                      all faults
    python -m benchmarks.reliability.faults --fault killed --command predict --seeds 3
    python -m benchmarks.reliability.faults --show                          a table of what is in the results
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Before torch is imported; the commands run in forked processes of this one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from attention_guidance.commands import results

from .. import BENCHMARKS
from ..fork_server import import_commands
from .fault_cases import CODES, Case, Kit, all_cases

_RESULTS = BENCHMARKS / "results" / "faults.jsonl"
_COLUMNS = ("fault", "command", "cases", "as promised", "checkpoints lost", "wrong results with exit code 0")


def record_of(case: Case, kit: Kit) -> dict[str, Any]:
    """Run a case and return its line of the results."""
    began = time.perf_counter()
    broken = case.run(kit)
    return dataclasses.asdict(case) | {"broken": broken, "seconds": round(time.perf_counter() - began, 2)}


def table(records: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of fault and command with their outcomes, and a last row with the sums."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["fault"], record["command"]), []).append(record)
        groups.setdefault((record["fault"], "all"), []).append(record)
    everything = [record for (_, command), found in groups.items() if command == "all" for record in found]
    order = sorted(groups, key=lambda key: ([*CODES].index(key[0]), key[1] == "all"))
    rows = [(*key, *_counts(groups[key])) for key in order]
    return [*rows, ("all", "all", *_counts(everything))]


def _counts(records: list[dict[str, Any]]) -> tuple[str, ...]:
    def count(start: str) -> int:
        return sum(any(start in line for line in record["broken"]) for record in records)

    broken = sum(bool(record["broken"]) for record in records)
    return tuple(map(str, (len(records), len(records) - broken, count("lost:"), count("wrong results"))))


def read(file: Path) -> list[dict[str, Any]]:
    """The cases of a file of results; its other lines say when and with which versions cases were run."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else ()
    return [record for record in map(json.loads, lines) if "fault" in record]


def main() -> None:
    """Run the cases that the results lack, or show the table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reliability.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=20, help="cases of each fault and command (fewer of slow ones)")
    parser.add_argument("--results", type=Path, default=_RESULTS)
    parser.add_argument("--fault", nargs="+", choices=CODES, default=(), help="these faults alone")
    parser.add_argument("--command", nargs="+", default=(), metavar="NAME", help="these commands alone")
    parser.add_argument("--show", action="store_true", help="print the table and exit")
    given = parser.parse_args()
    done = read(given.results)
    if not given.show:
        done += _run(given, done)
    for row in (_COLUMNS, tuple("---" for _ in _COLUMNS), *table(done)):
        print(f"| {' | '.join(row)} |")
    for record in done:
        for line in record["broken"]:
            print(f"{record['fault']}, {record['command']} at {record['at']} {record['how']}: {line}", file=sys.stderr)
    sys.exit(any(record["broken"] for record in done))


def _run(given: argparse.Namespace, done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import_commands()
    known = {Case(*(record[name.name] for name in dataclasses.fields(Case))) for record in done}
    given.results.parent.mkdir(parents=True, exist_ok=True)
    records = []
    with tempfile.TemporaryDirectory() as folder, given.results.open("a") as file:
        kit = Kit(Path(folder, "kit"))
        file.write(json.dumps(results.header("faults")) + "\n")
        for case in all_cases(kit, given.seeds, given.fault, given.command):
            if case in known:
                continue
            records.append(record_of(case, kit))
            file.write(json.dumps(records[-1]) + "\n")
            file.flush()
    return records


if __name__ == "__main__":
    main()
