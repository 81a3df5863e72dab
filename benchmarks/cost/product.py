"""What guidance costs in the steps that `pretrain` makes: `compare` with its presets, objectives, threads and dtypes.

    python -m benchmarks.cost.product                        half an hour on 2 cores, which must be idle otherwise
    python -m benchmarks.cost.product --settings tiny mini   the settings whose names begin so
    python -m benchmarks.cost.product --show                 the table of the newest results

Each setting is a run of `attention-guidance compare`, in a process of its own: the two arms take turns every few steps,
with the product's trainer, masked head and checkpoints. *Step time* is the guided arm's time over the unguided arm's
in a turn: the median over turns, with a bootstrap 95 % interval. *Memory* is the ratio of the peaks of two processes
that make a few steps each, beyond what importing takes: the median of three pairs, with the least and the largest.
Results are appended to results/cost_product.jsonl.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.compare import ARMS, STRETCH
from attention_guidance.commands.pretraining.loop.peak_memory import peak_memory
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, make_config

from .. import BENCHMARKS
from ..turns import append, newest, step_time

RESULTS = BENCHMARKS / "results" / "cost_product.jsonl"
_WARM_UP = 2  # turns that are left out
_PAIRS = 3  # of processes whose memory is compared
_GOALS = {("tiny", 64): 1.05, ("mini", 128): 1.02, ("small", 128): 1.02, ("small", 512): 1.03}
_MEMORY_GOAL = 1.03


@dataclass(frozen=True)
class Setting:
    """One run of `compare`.

    Attributes:
        preset: size of the model.
        length: tokens a sequence.
        batch: sequences a step.
        steps: of each arm.
        threads: of torch.
        precision: `fp32` or `bf16`.
        objective: what the model is trained to predict.
    """

    preset: str
    length: int
    batch: int
    steps: int
    threads: int
    precision: str = "fp32"
    objective: str = "mlm"

    @property
    def name(self) -> str:
        """By which `--settings` finds it."""
        return f"{self.preset}-{self.length}-{self.precision}-{self.threads}-{self.objective}"


_SIZES = (("tiny", 64, 16, 400), ("mini", 128, 32, 60), ("small", 128, 16, 60), ("small", 512, 4, 60))


def settings() -> list[Setting]:
    """All sizes in float32 with one and with two threads, more if there are more; then bf16, then other objectives."""
    cores = os.cpu_count() or 1
    threads = sorted({1, min(2, cores), cores})
    sized = [Setting(*size, number) for number in threads for size in _SIZES]
    others = [Setting(*_SIZES[0], 1, objective=name) for name in ("whole-word", "span", "rtd", "mlm+sop")]
    return [*sized, *(Setting(*size, 1, "bf16") for size in _SIZES[:2]), *others]


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost.product", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", nargs="+", default=[""], metavar="NAME", help="beginnings of names (default all)")
    parser.add_argument("--steps", type=int, help="of each arm (default by size)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        chosen = [one for one in settings() if one.name.startswith(tuple(arguments.settings))]
        if not chosen:
            parser.error(
                f"no setting begins with {' or '.join(arguments.settings)}: {', '.join(map(_name, settings()))}"
            )
        for setting in chosen:
            append(arguments.results, [measured(setting, arguments.steps or setting.steps)])
    print(table(arguments.results))
    return 0


def _name(setting: Setting) -> str:
    return setting.name


def measured(setting: Setting, steps: int) -> dict[str, Any]:
    """Run `compare` and read what its arms took."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [
            sys.executable, "-m", "attention_guidance", "compare", "--quiet", "--output", str(output),
            "--preset", setting.preset, "--block-size", str(setting.length), "--batch-size", str(setting.batch),
            "--max-steps", str(steps), "--precision", setting.precision, "--objective", setting.objective,
            "--eval-every", str(steps),
        ]  # fmt: skip
        threads = {name: str(setting.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        ended = subprocess.run(command, env=os.environ | threads, stderr=subprocess.PIPE, text=True, check=False)
        if ended.returncode:
            sys.exit(f"error: {setting.name}: {ended.stderr.strip().splitlines()[-1]}")
        peaks = _peaks(output, threads)
        guided, unguided = (_turns(output / "seed-1" / arm) for arm in ("guided", "unguided"))
    kept = {key: value for key, value in results.header("cost_product").items() if key != "command"}
    return (
        kept
        | asdict(setting)
        | {
            "name": setting.name,
            "steps": steps,
            "processor": results.processor(),
            "turns": len(guided),
            "unguided_ms": float(1000 * np.median(unguided) / STRETCH),
            **step_time(guided, unguided),
            "memory": peaks,
        }
    )


def _peaks(output: Path, threads: Mapping[str, str]) -> dict[str, Any]:
    """Peak memory of each arm in MiB and their ratio, of several pairs of processes.

    Freed blocks go back to the system at once: else the peak is as much the allocator's luck as the arm's.
    """
    back = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
    configs = {arm: make_config({}, output / "seed-1" / arm / CONFIG_FILE) for arm in ARMS}
    peaks: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with mock.patch.dict(os.environ, {**threads, **back}):
        for _ in range(_PAIRS):
            for arm, config in configs.items():
                peaks[arm].append(peak_memory(config, output / "tokenizer"))
    ratios = np.divide(peaks["guided"], peaks["unguided"])
    medians = {arm: float(np.median(of_arm)) for arm, of_arm in peaks.items()}
    return medians | {"ratio": float(np.median(ratios)), "low": float(ratios.min()), "high": float(ratios.max())}


def _turns(run: Path) -> list[float]:
    """Seconds of each turn of a run."""
    last = max(run.glob("checkpoints/checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    by_step = np.load(last / "step_seconds.npy")
    n_turns = len(by_step) // STRETCH
    turns: list[float] = by_step[: n_turns * STRETCH].reshape(n_turns, STRETCH).sum(-1)[_WARM_UP:].tolist()
    return turns


def table(path: Path) -> str:
    """The newest figures of each setting as Markdown."""
    records = newest(path, "name", "processor")
    if not records:
        return "nothing is kept yet"
    head = ("preset", "objective", "T", "dtype", "threads", "step, ms", "step time", "asked", "memory", "asked")
    rows: list[Iterable[str]] = [head, ("---",) * len(head)]
    for record in records:
        goal = _GOALS.get((record["preset"], record["length"])) if record["objective"] == "mlm" else None
        memory = record["memory"]
        spread = f" ({memory['low']:.3f} to {memory['high']:.3f})" if "low" in memory else ""
        rows.append(
            (
                record["preset"], record["objective"], str(record["length"]), record["precision"],
                str(record["threads"]), f"{record['unguided_ms']:.0f}",
                f"{record['ratio']:.3f} ({record['ratio_low']:.3f} to {record['ratio_high']:.3f})",
                f"{goal:.2f}" if goal else "", f"{memory['ratio']:.3f}{spread}" if memory["ratio"] else "",
                f"{_MEMORY_GOAL:.2f}" if goal else "",
            )
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
