"""Attention alone: our kernels against SDPA's flash kernel and FlexAttention, guided and unguided. Needs an NVIDIA GPU.

    python benchmarks/kernel.py                       some minutes on a data-centre GPU
    python benchmarks/kernel.py --lengths 512 4096 --dtypes bf16 fp16 --budget 300
    python benchmarks/kernel.py --keep kernel.jsonl   keep the results of another machine, written there with --results
    python benchmarks/kernel.py --show                the tables of all results kept so far
    python benchmarks/kernel.py --dry-run             all of it at toy size on a CPU, in Triton's interpreter

Forward, backward and both, at as many tokens for each length. Half of the heads are guided (next, previous, first),
with their loss and its gradient. All ways stand in one process and take turns, in an order drawn anew for every round;
a ratio is the median over rounds, with a bootstrap 95 % interval. TFLOP/s count the matrix products only; the ceiling
is a product of large matrices in the same run. A way that is not right at a small size is not timed.

What it finds is appended to results/kernel.jsonl, one line a length, head size and dtype, as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    # Asked for before the kernels are made.
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
from kernel_arms import ARMS, BASELINE, DTYPES, GUIDED, PASSES, UNGUIDED, WEIGHT, Arm, Setting, Tensors, error
from kernel_tables import markdown, report
from turns import append, step_time, take_turns

from attention_guidance.loss import triton as backend
from attention_guidance.results import header, processor

RESULTS = Path(__file__).parent / "results" / "kernel.jsonl"
# Relative error that is rounding: of float32, and of half precision.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
_WARM_UP = 2
_CEILING = {"cuda": 8192, "cpu": 128}
CANNOT_RUN = (RuntimeError, ImportError, NotImplementedError, ValueError)


def main() -> None:
    arguments = _arguments()
    for path in arguments.keep:
        append(arguments.results, map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    if arguments.keep or arguments.show:
        print(_kept(arguments.results))
        return
    if not backend.installed():
        _refuse("Triton is not installed; pip install triton")
    if not (torch.cuda.is_available() or arguments.dry_run):
        _refuse("no NVIDIA GPU here; --dry-run tries everything at toy size on a CPU, --show tells what is kept")
    if arguments.dry_run and arguments.results == RESULTS:
        _refuse("a dry run keeps nothing beside real results; give it a file with --results")
    begin = time.monotonic()
    for setting in _settings(arguments):
        if arguments.budget and time.monotonic() - begin > arguments.budget:
            print(f"stopped before T={setting.length} in {setting.dtype}: the budget is spent", flush=True)
            break
        record = measure(setting, arguments.rounds, arguments.seconds) | {"dry_run": arguments.dry_run}
        append(arguments.results, [record])
        print(f"\n{report(record)}", flush=True)


def measure(setting: Setting, rounds: int, seconds: float) -> dict[str, Any]:
    """Every way at one size: what it takes, beside SDPA's flash kernel and beside a product of matrices."""
    tensors = Tensors(setting)
    arms: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in ARMS:
        reason = _tried(name, setting, tensors, arms)
        if reason:
            arms.pop(name, None)
            skipped[name] = reason
            print(f"skipped {name} at T={setting.length} in {setting.dtype}: {reason}", flush=True)
    of_same_kernel: dict[str, Any] = {}
    for part in PASSES:
        ways = {name: Arm(name, part, setting, tensors) for name in arms}
        times = take_turns(ways, rounds, seconds / len(PASSES))
        for name, taken in times.items():
            products = setting.products * {"forward": 1.0, "backward": 2.5, "both": 3.5}[part]
            arms[name][part] = _figures(taken, times.get(BASELINE), products)
        if GUIDED in times and UNGUIDED in times:
            of_same_kernel[part] = step_time(times[GUIDED], times[UNGUIDED])
    if BASELINE in arms:
        for arm in arms.values():
            peak, beside = arm["peak_mib"], arms[BASELINE]["peak_mib"]
            arm["memory_ratio"] = peak / beside if peak and beside else None
    return {key: value for key, value in header("kernel").items() if key != "command"} | {
        "versions": header("kernel")["versions"] | {"triton": _triton_version()},
        "processor": processor(),
        "settings": asdict(setting) | {"weight": WEIGHT, "guided": sum(n for _, n in setting.groups)},
        "length": setting.length,
        "dtype": setting.dtype,
        "channels": setting.channels,
        "rounds": rounds,
        "ceiling_tflops": ceiling(setting),
        "arms": arms,
        "guided_over_unguided": of_same_kernel,
        "skipped": skipped,
    }


def ceiling(setting: Setting) -> float:
    """TFLOP/s of a large product of matrices in the same dtype, the median of some."""
    size = _CEILING[setting.device]
    left, right = (torch.randn(size, size, device=setting.device).to(DTYPES[setting.dtype]) for _ in range(2))
    taken = []
    for _ in range(7):
        _wait(setting)
        begin = time.perf_counter()
        left @ right
        _wait(setting)
        taken.append(time.perf_counter() - begin)
    return float(2 * size**3 / np.median(taken[2:]) / 1e12)


def _tried(name: str, setting: Setting, tensors: Tensors, arms: dict[str, dict[str, Any]]) -> str | None:
    """Whether a way is right, and its memory, into `arms`; why it cannot be timed, or None."""
    try:
        off = error(name, setting)
        arms[name] = {"error": off, "peak_mib": _peak(name, setting, tensors)}
    except CANNOT_RUN as problem:
        return f"{type(problem).__name__}: {problem}".splitlines()[0]
    if not off <= TOLERANCE[setting.dtype]:
        return f"wrong: a relative error of {off:.1e}, of {TOLERANCE[setting.dtype]:.0e} that is rounding"
    return None


def _peak(name: str, setting: Setting, tensors: Tensors) -> float | None:
    """The most memory that forward and backward take beyond their inputs, in MiB; compiles what is to be compiled."""
    arm = Arm(name, "both", setting, tensors)
    for _ in range(_WARM_UP):
        arm.step()
    if setting.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    arm.step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _figures(taken: list[float], baseline: list[float] | None, products: float) -> dict[str, Any]:
    p20, p50, p80 = (1000 * float(np.percentile(taken, percent)) for percent in (20, 50, 80))
    figures = {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, "tflops": products / p50 / 1e9}
    return figures | (step_time(taken, baseline) if baseline else {})


def _wait(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _settings(arguments: argparse.Namespace) -> Iterable[Setting]:
    for dtype in arguments.dtypes:
        for channels in arguments.channels:
            for length in arguments.lengths:
                batch = max(1, arguments.tokens // length)
                repeats = 1 if arguments.dry_run else 10
                device = "cpu" if arguments.dry_run else "cuda"
                yield Setting(batch, arguments.heads, length, channels, dtype, device, repeats)


def _kept(path: Path) -> str:
    if not path.exists():
        return "Not yet measured: no results from an NVIDIA GPU are kept."
    records: list[Mapping[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return markdown(records)


def _refuse(reason: str) -> None:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens a sequence (128 to 16384)")
    parser.add_argument("--tokens", type=int, help="tokens in all (65536)")
    parser.add_argument("--heads", type=int, help="heads, half of them guided (12)")
    parser.add_argument("--channels", type=int, nargs="+", help="channels of a head (64)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default bf16")
    parser.add_argument("--rounds", type=int, help="rounds (20)")
    parser.add_argument("--seconds", type=float, default=60, help="limit on the rounds of one size")
    parser.add_argument("--budget", type=float, help="seconds after which no further size is begun")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="results of another machine to keep too")
    parser.add_argument("--show", action="store_true", help="print the tables of the results kept so far")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on a CPU, in Triton's interpreter")
    arguments = parser.parse_args()
    dry = arguments.dry_run
    arguments.lengths = arguments.lengths or ([32, 64] if dry else [128, 512, 1024, 2048, 4096, 8192, 16384])
    arguments.tokens = arguments.tokens or (64 if dry else 65536)
    arguments.heads = arguments.heads or (6 if dry else 12)
    arguments.channels = arguments.channels or ([32] if dry else [64])
    arguments.dtypes = arguments.dtypes or (["fp32"] if dry else ["bf16"])
    arguments.rounds = arguments.rounds or (2 if dry else 20)
    if arguments.heads < 6:
        parser.error(f"--heads {arguments.heads}: at least 6, of which half are guided toward three patterns")
    return arguments


if __name__ == "__main__":
    main()
