"""Mutate files that commands read, and look for foreign exceptions, hangs and odd messages: make fuzz.

A case is a target and a number. Even cases mutate a valid file, and are reproduced by their number alone. Odd cases
mutate an input that was kept since it took a new step from line to line of the project; a share of them is traced. A
kept input is known by its number and its parent, so that the results suffice to make it again. The outcome of a case
is `read`, `refused` (an error of the project: one line that names the file) or a fault: another exception, a message
that breaks one of these rules, more than 10 seconds, or 500 MB more memory than any case before.

The results have a line per target, replaced as the run goes on, and a line per fault; a second call continues.

    python -m benchmarks.reliability.fuzz --text 1000000 --json 100000 --binary 20000
    python -m benchmarks.reliability.fuzz --target probe.json --number 18      one case, with its traceback
    python -m benchmarks.reliability.fuzz --again --results FILE               the faults of the results, each once
"""

from __future__ import annotations

import argparse
import base64
import json
import logging
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attention_guidance
from attention_guidance.commands import results
from attention_guidance.errors import GuidanceError

from .. import BENCHMARKS
from .fuzz_targets import TARGETS, Target

SECONDS = 10
MOST_KB = 500_000
# Of the odd cases; tracing takes several times as long.
_TRACED = 4
_MOST_KEPT, _LONGEST_KEPT = 400, 20_000
_MOST_FAULTS = 20
_ROUND = 200
_SOURCES = str(Path(attention_guidance.__file__).parent)


class Fuzzer:
    """The cases of one target, in order.

    Args:
        name: Name of the target: the path of its file in the folder.
        folder: A folder for its file, reused for all cases.
        before: The target's line of earlier results, if any.
    """

    def __init__(self, name: str, folder: Path, before: dict[str, Any] | None = None) -> None:
        self.name, self.target, self.path = name, TARGETS[name], folder / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = before or {"cases": 0, "outcomes": {}, "kept": [], "seconds": 0.0}
        self.n_cases, self.seconds = before["cases"], before["seconds"]
        self.outcomes = Counter(before["outcomes"])
        # Number and parent of each kept input; a parent below 0 is a valid file.
        self.kept: list[tuple[int, int]] = []
        self.inputs: list[bytes] = []
        # Steps from line to line, with the file.
        self.steps: set[tuple[str, int, int]] = set()
        for number, parent in before["kept"]:
            self._keep(number, parent, self._mutated(number, parent))
        for content in (*self.target.seeds, *self.inputs):
            self._outcome(0, content, traced=True)

    def content(self, number: int) -> tuple[int, bytes]:
        """The parent and the bytes of a case."""
        chance = random.Random(f"{self.name}:{number}")
        n_seeds, n_kept = len(self.target.seeds), len(self.inputs) if number % 2 else 0
        parent = chance.randrange(-n_seeds, n_kept)
        return parent, self._mutated(number, parent)

    def _mutated(self, number: int, parent: int) -> bytes:
        content = self.inputs[parent] if parent >= 0 else self.target.seeds[parent]
        return self.target.mutate(content, random.Random(f"{self.name}:{number}:bytes"))

    def run(self, n: int) -> Iterator[dict[str, Any]]:
        """Run the next cases, and yield the faults."""
        began = time.perf_counter()
        for number in range(self.n_cases, self.n_cases + n):
            parent, content = self.content(number)
            traced = number % (2 * _TRACED) == 1
            n_steps = len(self.steps)
            outcome, fault = self._outcome(number, content, traced)
            self.outcomes[outcome] += 1
            if len(self.steps) > n_steps and len(self.inputs) < _MOST_KEPT and len(content) <= _LONGEST_KEPT:
                self._keep(number, parent, content)
            if fault is not None:
                packed = base64.b64encode(zlib.compress(content)).decode()
                yield {"target": self.name, "number": number, "parent": parent} | fault | {"input": packed}
        self.n_cases += n
        self.seconds += time.perf_counter() - began

    def _keep(self, number: int, parent: int, content: bytes) -> None:
        self.kept.append((number, parent))
        self.inputs.append(content)

    def _outcome(self, number: int, content: bytes, traced: bool) -> tuple[str, dict[str, Any] | None]:
        if traced:
            sys.settrace(self._trace)
        try:
            return outcome_of(self.target, self.path, number, content)
        finally:
            sys.settrace(None)

    def _trace(self, frame: types.FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_SOURCES):
            return None
        steps, last = self.steps, 0

        def line(frame: types.FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                steps.add((file, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    def line(self) -> dict[str, Any]:
        """The target's line of the results."""
        return {
            "target": self.name,
            "kind": self.target.kind,
            "cases": self.n_cases,
            "outcomes": dict(self.outcomes),
            "steps_reached": len(self.steps),
            "seconds": round(self.seconds, 1),
            "kept": self.kept,
        }


def outcome_of(target: Target, path: Path, number: int, content: bytes) -> tuple[str, dict[str, Any] | None]:
    """Write and read a case; a fault has a description."""
    path.write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Of the process, so that a busy machine makes no fault; what waits for something has more.
    signal.signal(signal.SIGPROF, _too_slow)
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(6 * SECONDS)
    fault: dict[str, Any] | None = None
    outcome = "read"
    try:
        target.read(path, random.Random(f"{path.name}:{number}:options"))
    except GuidanceError as error:
        message, outcome = str(error), "refused"
        named = not target.named or path.name in message or str(path.parent) in message
        if "\n" in message or len(message) > 2000 or not named:
            fault = {"fault": "message", "message": message[:300]}
    except (Exception, TimeoutError) as error:
        fault = {"fault": type(error).__name__, "message": str(error)[:300], "at": _place(error.__traceback__)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if fault is None and grown > MOST_KB:
        fault = {"fault": "memory", "message": f"{grown // 1000} MB"}
    return outcome if fault is None else fault["fault"], fault


def _too_slow(number: int, frame: types.FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def _place(at: types.TracebackType | None) -> str:
    frames = [f for f in traceback.extract_tb(at) if "attention_guidance" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def fuzz(names: list[str], wanted: dict[str, int], file: Path, folder: Path) -> list[dict[str, Any]]:
    """Run the cases that the results lack, in rounds over the targets; return the lines of the results."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    before = {line["target"]: line for line in lines if "cases" in line}
    faults = [line for line in lines if "fault" in line]
    fuzzers = [Fuzzer(name, folder / str(n), before.get(name)) for n, name in enumerate(names)]
    others = [line for name, line in before.items() if name not in names]
    while True:
        n_done = Counter[str]()
        for line in [*others, *(each.line() for each in fuzzers)]:
            n_done[line["kind"]] += line["cases"]
        left = [each for each in fuzzers if n_done[each.target.kind] < wanted[each.target.kind]]
        for each in left:
            share = wanted[each.target.kind] - n_done[each.target.kind]
            of_kind = sum(other.target.weight for other in left if other.target.kind == each.target.kind)
            n = min(_ROUND * each.target.weight, -(-share * each.target.weight // of_kind))
            for fault in each.run(n):
                if sum((old["target"], old["fault"]) == (each.name, fault["fault"]) for old in faults) < _MOST_FAULTS:
                    faults.append(fault)
        lines = [_header(), *others, *(each.line() for each in fuzzers), *faults]
        results.write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
        if not left:
            return lines


def _header() -> dict[str, Any]:
    packages = ("torch", "transformers", "numpy", "pyarrow", "pyyaml", "conllu", "safetensors")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": results.processor(),
    }


def _reproduce(name: str, number: int, file: Path, folder: Path) -> None:
    """Run one case without catching its exception."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    line = next((line for line in lines if line.get("target") == name and "cases" in line), None)
    if line is not None:
        line["kept"] = [(kept, parent) for kept, parent in line["kept"] if kept < number]
    fuzzer = Fuzzer(name, folder, line)
    fuzzer.path.write_bytes(fuzzer.content(number)[1])
    fuzzer.target.read(fuzzer.path, random.Random(f"{fuzzer.path.name}:{number}:options"))


def _again(file: Path, folder: Path) -> bool:
    """Run the faults of the results again, and print what they do now; whether any is a fault still."""
    still = False
    for line in (json.loads(line) for line in file.read_text().splitlines()):
        if "fault" in line:
            path = folder / line["target"]
            path.parent.mkdir(parents=True, exist_ok=True)
            content = zlib.decompress(base64.b64decode(line["input"]))
            outcome, fault = outcome_of(TARGETS[line["target"]], path, line["number"], content)
            print(f"{line['target']:28} {line['number']:8} was {line['fault']:20} is {outcome}", fault or "")
            still |= fault is not None
    return still


def main() -> None:
    """Run the cases that the results lack."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reliability.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", type=int, default=0, help="cases of all targets of text together")
    parser.add_argument("--json", type=int, default=0, help="cases of all targets of JSON together")
    parser.add_argument("--binary", type=int, default=0, help="cases of all other targets together")
    parser.add_argument("--results", type=Path, default=BENCHMARKS / "results" / "fuzz.jsonl")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--number", type=int, help="run only this case of --target")
    parser.add_argument("--again", action="store_true", help="run only the faults of the results")
    given = parser.parse_args()
    logging.disable()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        if given.number is not None:
            _reproduce(given.target, given.number, given.results, folder)
            return
        if given.again:
            sys.exit(_again(given.results, folder))
        names = [given.target] if given.target else list(TARGETS)
        lines = fuzz(names, {kind: getattr(given, kind) for kind in ("text", "json", "binary")}, given.results, folder)
    finally:
        shutil.rmtree(folder)
        logging.disable(logging.NOTSET)
    for line in lines:
        if "cases" in line:
            outcomes = ", ".join(f"{name} {n:,}" for name, n in sorted(line["outcomes"].items()))
            print(f"{line['target']:30} {line['cases']:9,}   {outcomes}   {line['seconds']:.0f} s")
    sys.exit(any("fault" in line for line in lines))


if __name__ == "__main__":
    main()
