"""Does anything grow in a long run? 200,000 steps of a tiny model with frequent checkpoints and validation.

    python benchmarks/long_run.py                   200,000 steps (half an hour on an idle core)
    python benchmarks/long_run.py --steps 20000
    python benchmarks/long_run.py --show            the table of what is kept

`attention-guidance pretrain` runs as a command of its own on made-up text. At every checkpoint, its resident memory,
open files, threads, CPU time and the size of its output folder are read from the system. The drift of each is that of
the last tenth of the run over the second tenth; steps of the first warm up caches. A step's CPU time includes logging,
validation and checkpoints, its wall time does not. On a shared machine a core's speed changes from hour to hour, so a
fixed piece of work is timed at every checkpoint too, and times are also given as multiples of it. The result is
appended to results/long_run.jsonl.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from turns import append, newest

from attention_guidance.commands import results

RESULTS = Path(__file__).parent / "results" / "long_run.jsonl"
_SIZE = "--layers 1 --hidden 16 --attention-heads 2 --feed-forward 16 --block-size 16 --vocab-size 280 --batch-size 2"
_EVERY = 500
_POLL_SECONDS = 0.2
# What is reported of each tenth: the largest memory, files, threads and disk, the median of times.
_MEASURES: dict[str, Callable[[Any], Any]] = {
    "memory": np.max,
    "files": np.max,
    "threads": np.max,
    "disk": np.max,
    "fixed_seconds": np.median,
    "fixed_cpu": np.median,
    "cpu_per_step": np.median,
    "step_seconds": np.median,
    "cpu_over_fixed": np.median,
    "step_over_fixed": np.median,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        if arguments.steps < 20 * _EVERY:
            parser.error(f"--steps must be at least {20 * _EVERY}, so that each tenth has two checkpoints")
        with tempfile.TemporaryDirectory() as folder:
            append(arguments.results, [measured(arguments.steps, Path(folder))])
    print(show(arguments.results))
    return 0


def measured(steps: int, folder: Path) -> dict[str, Any]:
    """Run `pretrain` to its end, and describe each tenth of it.

    Raises:
        SystemExit: The run failed.
    """
    text, output = folder / "text.txt", folder / "run"
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 7))) for _ in range(120)]
    text.write_text("".join(" ".join(chance.choices(words, k=12)) + ".\n" for _ in range(400)))
    flags = f"{_SIZE} --max-steps {steps} --save-every {_EVERY} --eval-every {_EVERY} --heads next:1 --dropout 0.1 -q"
    command = [sys.executable, "-m", "attention_guidance", "pretrain", str(text), "-o", str(output), *flags.split()]
    with subprocess.Popen(command) as process:
        samples = list(_watched(process, output))
    if process.returncode:
        raise SystemExit(f"pretrain exited with {process.returncode}")
    (last,) = (output / "checkpoints").glob(f"checkpoint-{steps}")
    seconds = np.load(last / "step_seconds.npy")
    columns = {name: np.array([sample[name] for sample in samples]) for name in samples[0]}
    begins = np.concatenate([[0], columns["step"][:-1]])
    columns["cpu_per_step"] = np.diff(columns.pop("cpu"), prepend=0) / (columns["step"] - begins)
    columns["step_seconds"] = np.array(
        [np.median(seconds[begin:end]) for begin, end in zip(begins, columns["step"], strict=True)]
    )
    columns["cpu_over_fixed"] = columns["cpu_per_step"] / columns["fixed_cpu"]
    columns["step_over_fixed"] = columns["step_seconds"] / columns["fixed_seconds"]
    tenth_of = np.minimum(10 * (columns["step"] - 1) // steps, 9)
    tenths = [{name: float(of(columns[name][tenth_of == n])) for name, of in _MEASURES.items()} for n in range(10)]
    return {
        **results.header("long_run"),
        "command": f"attention-guidance {' '.join(command[3:4])} TEXT -o OUTPUT {flags}",
        "steps": steps,
        "checkpoints": steps // _EVERY,
        "tenths": tenths,
        "drift": {name: tenths[-1][name] / tenths[1][name] - 1 for name in _MEASURES},
    }


def _watched(process: subprocess.Popen[bytes], output: Path) -> Iterator[dict[str, Any]]:
    """A sample whenever the run has a new checkpoint."""
    of, step = psutil.Process(process.pid), 0
    while process.poll() is None:
        time.sleep(_POLL_SECONDS)
        newest_step = max((int(path.name.split("-")[1]) for path in output.glob("checkpoints/checkpoint-*")), default=0)
        if newest_step > step:
            try:
                with of.oneshot():
                    times = of.cpu_times()
                    sample = {"memory": of.memory_info().rss, "files": of.num_fds(), "threads": of.num_threads()}
            except psutil.NoSuchProcess:
                return
            step = newest_step
            # A checkpoint may be removed while its files are counted.
            # os.walk passes over folders that vanish.
            sizes = (_size(Path(folder, name)) for folder, _, names in os.walk(output) for name in names)
            yield (
                sample
                | {
                    "step": step,
                    "cpu": times.user + times.system,
                    "disk": sum(sizes),
                }
                | _fixed_work()
            )


def _fixed_work() -> dict[str, float]:
    """Time a fixed piece of work like that of a step: many small tensor operations."""
    began, cpu = time.perf_counter(), time.process_time()
    a = torch.full((16, 16), 0.1)
    for _ in range(20_000):
        a = torch.softmax(a @ a, -1)
    return {"fixed_seconds": time.perf_counter() - began, "fixed_cpu": time.process_time() - cpu}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def show(path: Path) -> str:
    """The newest long run as a table in Markdown."""
    lines = ["| steps | | second tenth | last tenth | drift |", "|---|---|---|---|---|"]
    units = {
        "memory": ("resident memory, MB", 1e-6, 1),
        "files": ("open files", 1, 0),
        "threads": ("threads", 1, 0),
        "disk": ("output folder, MB", 1e-6, 2),
        "fixed_seconds": ("wall time of fixed work, ms", 1e3, 2),
        "fixed_cpu": ("CPU time of fixed work, ms", 1e3, 2),
        "cpu_per_step": ("CPU time a step, all included, ms", 1e3, 2),
        "step_seconds": ("wall time a step, ms", 1e3, 2),
        "cpu_over_fixed": ("CPU time a step over fixed work", 1, 3),
        "step_over_fixed": ("wall time a step over fixed work", 1, 3),
    }
    for record in newest(path, "steps"):
        for name, (title, scale, digits) in units.items():
            second, last = (f"{record['tenths'][n][name] * scale:.{digits}f}" for n in (1, 9))
            lines.append(f"| {record['steps']:,} | {title} | {second} | {last} | {record['drift'][name]:+.1%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
