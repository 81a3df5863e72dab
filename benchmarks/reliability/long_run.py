"""Does anything grow in a long run? 200,000 steps of a tiny model with frequent checkpoints and validation.

    python -m benchmarks.reliability.long_run                   200,000 steps (a quarter of an hour on two idle cores)
    python -m benchmarks.reliability.long_run --steps 20000
    python -m benchmarks.reliability.long_run --show            the table of what is kept

`attention-guidance pretrain` runs as a command of its own on made-up text. On a shared machine a core's speed changes
from minute to minute, more than anything drifts, so the end of the long run is compared with a young run of the same
command that runs beside it: it starts when four fifths of the steps are done, and both are measured over the last
tenth, in which nothing else should run. At every checkpoint, each one's resident memory, open files, threads, CPU time
and the size of its output folder are read from the system. A step's CPU time includes logging, validation and
checkpoints, its wall time does not. The result is appended to results/long_run.jsonl.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from attention_guidance.commands import results

from .. import BENCHMARKS
from ..turns import append, newest

RESULTS = BENCHMARKS / "results" / "long_run.jsonl"
_SIZE = "--layers 1 --hidden 16 --attention-heads 2 --feed-forward 16 --block-size 16 --vocab-size 280 --batch-size 2"
_EVERY = 500
_POLL_SECONDS = 0.2
# Shares of the steps after which the young run starts, and after which both are compared.
_YOUNG, _COMPARED = 0.8, 0.9


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.reliability.long_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        if arguments.steps < 20 * _EVERY:
            parser.error(f"--steps must be at least {20 * _EVERY}, so that a tenth has two checkpoints")
        with tempfile.TemporaryDirectory() as folder:
            append(arguments.results, [measured(arguments.steps, Path(folder))])
    print(show(arguments.results))
    return 0


def measured(steps: int, folder: Path) -> dict[str, Any]:
    """Run `pretrain` to its end, and compare its last tenth with a young run beside it.

    Raises:
        SystemExit: A run failed.
    """
    text = folder / "text.txt"
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 7))) for _ in range(120)]
    text.write_text("".join(" ".join(chance.choices(words, k=12)) + ".\n" for _ in range(400)))
    flags = f"{_SIZE} --max-steps {steps} --save-every {_EVERY} --eval-every {_EVERY} --heads next:1 --dropout 0.1 -q"
    with ExitStack() as stack:
        old = _Run(text, folder / "old", flags, stack)
        young: _Run | None = None
        while old.sampled():
            if young is None and old.step >= _YOUNG * steps:
                young = _Run(text, folder / "young", flags, stack)
            if young is not None and not young.sampled():
                raise SystemExit(f"the young run exited with {young.process.returncode}")
            time.sleep(_POLL_SECONDS)
        if old.process.returncode or young is None:
            raise SystemExit(f"pretrain exited with {old.process.returncode}")
        young.process.kill()
        young.process.wait()
        begin = next(sample["time"] for sample in old.samples if sample["step"] >= _COMPARED * steps)
        ends = {"young": young.over(begin), "old": old.over(begin)}
    return {
        **results.header("long_run"),
        "command": f"attention-guidance pretrain TEXT -o OUTPUT {flags}",
        "steps": steps,
        "checkpoints": steps // _EVERY,
        **ends,
        "drift": {name: value / ends["young"][name] - 1 for name, value in ends["old"].items() if name != "steps"},
    }


class _Run:
    """A run of `pretrain`, with a sample whenever it has a new checkpoint.

    Args:
        text: the corpus.
        output: the folder of the run.
        flags: other arguments.
        stack: ends the run.
    """

    def __init__(self, text: Path, output: Path, flags: str, stack: ExitStack) -> None:
        command = [sys.executable, "-m", "attention_guidance", "pretrain", str(text), "-o", str(output), *flags.split()]
        self.output = output
        self.process = stack.enter_context(subprocess.Popen(command))
        stack.callback(self.process.kill)
        self.samples: list[dict[str, Any]] = []

    @property
    def step(self) -> int:
        """The step of the newest sample."""
        return self.samples[-1]["step"] if self.samples else 0

    def sampled(self) -> bool:
        """Take a sample if there is a new checkpoint; False once the run has ended."""
        if self.process.poll() is not None:
            return False
        step = max((int(path.name.split("-")[1]) for path in self.output.glob("checkpoints/checkpoint-*")), default=0)
        if step > self.step:
            of = psutil.Process(self.process.pid)
            try:
                with of.oneshot():
                    times = of.cpu_times()
                    sample = {"memory": of.memory_info().rss, "files": of.num_fds(), "threads": of.num_threads()}
            except psutil.NoSuchProcess:
                return True
            # os.walk passes over folders that vanish: a checkpoint may be removed while its files are counted.
            sizes = (_size(Path(folder, name)) for folder, _, names in os.walk(self.output) for name in names)
            more = {"step": step, "time": time.monotonic(), "cpu": times.user + times.system, "disk": sum(sizes)}
            self.samples.append(sample | more)
        return True

    def over(self, begin: float) -> dict[str, Any]:
        """Steps, largest memory, files, threads and disk, and times of a step, of the samples since `begin`."""
        samples = [sample for sample in self.samples if sample["time"] >= begin]
        first, last = samples[0], samples[-1]
        checkpoints = (self.output / "checkpoints").glob("checkpoint-*/step_seconds.npy")
        seconds = np.load(max(checkpoints, key=lambda file: int(file.parent.name.split("-")[1])))
        return {
            "steps": [first["step"], last["step"]],
            **{name: max(sample[name] for sample in samples) for name in ("memory", "files", "threads", "disk")},
            "cpu_per_step": (last["cpu"] - first["cpu"]) / (last["step"] - first["step"]),
            "step_seconds": float(np.median(seconds[first["step"] : last["step"]])),
        }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def show(path: Path) -> str:
    """The newest long run as a table in Markdown."""
    lines = ["| steps | | a young run beside it | last tenth | drift |", "|---|---|---|---|---|"]
    units = {
        "memory": ("resident memory, MB", 1e-6, 1),
        "files": ("open files", 1, 0),
        "threads": ("threads", 1, 0),
        "disk": ("output folder, MB", 1e-6, 2),
        "cpu_per_step": ("CPU time a step, all included, ms", 1e3, 2),
        "step_seconds": ("wall time a step, ms", 1e3, 2),
    }
    for record in newest(path, "steps"):
        for name, (title, scale, digits) in units.items():
            young, old = (f"{record[run][name] * scale:.{digits}f}" for run in ("young", "old"))
            lines.append(f"| {record['steps']:,} | {title} | {young} | {old} | {record['drift'][name]:+.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
