"""Attention alone: our kernels against SDPA's flash kernel and FlexAttention, guided and unguided. Needs an NVIDIA GPU.

    python -m benchmarks.kernel.speed                       some minutes on a data-centre GPU
    python -m benchmarks.kernel.speed --lengths 512 4096 --dtypes bf16 fp16 --budget 300
    python -m benchmarks.kernel.speed --keep kernel.jsonl   keep results of another machine, written there by --results
    python -m benchmarks.kernel.speed --show                the tables of all results kept so far
    python -m benchmarks.kernel.speed --dry-run             all of it at toy size on a CPU, in Triton's interpreter

Forward, backward and both, at as many tokens for each length. Half of the heads are guided (next, previous, first),
with their loss and its gradient. All arms stand in one process and take turns, in an order drawn anew for every round;
a ratio is the median over rounds, with a bootstrap 95 % interval. Times are the GPU's own, with all work in its queue;
*launch* is what Python takes to put it there, and *host-bound* the share of rounds in which the GPU had to wait for
Python all the same. What the layers of a model share is made beforehand.
TFLOP/s count the matrix products of attention, 4 B H T^2 D forward and 2.5 times that backward; the ceiling is a
product of large matrices in the same run. *Memory* is an arm's peak in forward and backward beyond its inputs, over
that of SDPA's flash kernel. An arm that is not right at a small size is not timed.

What it finds is appended to results/kernel.jsonl, one line a length, head size and dtype, as soon as it is known.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

if "--dry-run" in sys.argv:
    # Asked for before the kernels are made.
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

from attention_guidance.loss import triton as backend

from .. import BENCHMARKS
from ..turns import append
from .arms import DTYPES, Setting
from .measure import measure, named
from .tables import markdown, report

RESULTS = BENCHMARKS.resolve() / "results" / "kernel.jsonl"
# Of a real run, and of a dry one.
_DEFAULTS: Mapping[str, tuple[Any, Any]] = {
    "lengths": ([128, 512, 1024, 2048, 4096, 8192, 16384], [32, 64]),
    "tokens": (16384, 64),
    "heads": (12, 6),
    "channels": ([64], [32]),
    "dtypes": (["bf16"], ["fp32"]),
    "rounds": (100, 2),
}


def main() -> None:
    arguments = _arguments()
    if arguments.keep:
        _keep(arguments)
    if arguments.keep or arguments.show:
        print(_kept(arguments.results))
        return
    _check_machine(arguments)
    begin = time.monotonic()
    for setting in _settings(arguments):
        left = arguments.budget - (time.monotonic() - begin)
        if left <= 0:
            print(f"stopped before {named(setting)}: {arguments.budget:.0f} seconds are over", flush=True)
            break
        record = measure(setting, arguments.rounds, min(arguments.seconds, left)) | {"dry_run": arguments.dry_run}
        if arguments.results:
            append(arguments.results, [record])
        print(f"\n{report(record)}", flush=True)
        if not record["arms"]:
            sys.exit(f"error: nothing runs at {named(setting)}")


def _settings(arguments: argparse.Namespace) -> Iterable[Setting]:
    device = "cpu" if arguments.dry_run else "cuda"
    for dtype in arguments.dtypes:
        for channels in arguments.channels:
            for length in arguments.lengths:
                yield Setting(arguments.tokens // length, arguments.heads, length, channels, dtype, device)


def _keep(arguments: argparse.Namespace) -> None:
    records = [record for path in arguments.keep for record in _read(path)]
    if arguments.results.resolve() == RESULTS and any(record["dry_run"] for record in records):
        _refuse("results of a dry run are no measurement and are not kept here; give them a file with --results")
    append(arguments.results, records)


def _kept(path: Path) -> str:
    return markdown(_read(path)) if path.exists() else "not yet measured: no results from an NVIDIA GPU are kept"


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _check_machine(arguments: argparse.Namespace) -> None:
    if not backend.installed():
        _refuse("Triton is not installed; pip install triton")
    if arguments.dry_run:
        return
    if not (torch.cuda.is_available() and torch.version.cuda):
        _refuse("no NVIDIA GPU here; --dry-run goes through everything at toy size on a CPU, --show tells what is kept")
    if backend.interpreted():
        _refuse("TRITON_INTERPRET=1 would time Triton's interpreter; unset it, or ask for --dry-run")


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernel.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens a sequence (default 128 to 16384)")
    parser.add_argument("--tokens", type=int, help="tokens in all, the same for every length (default 16384)")
    parser.add_argument("--heads", type=int, help="half of them are guided (default 12)")
    parser.add_argument("--channels", type=int, nargs="+", help="of a head (default 64)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default bf16")
    parser.add_argument("--rounds", type=int, help="default 100")
    parser.add_argument("--seconds", type=float, default=60, help="limit on the rounds of one size")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds after which no other size is begun")
    parser.add_argument("--results", type=Path, help="where results are kept; those of a dry run nowhere by default")
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="results of another machine to keep too")
    parser.add_argument("--show", action="store_true", help="print the tables of the results kept so far")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes on a CPU, in Triton's interpreter")
    arguments = parser.parse_args()
    for name, (real, toy) in _DEFAULTS.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, toy if arguments.dry_run else real)
    if arguments.heads < 4:
        parser.error(f"--heads {arguments.heads}: at least 4, three guided toward three patterns and one that is not")
    if any(arguments.tokens % length for length in arguments.lengths):
        parser.error(f"--tokens {arguments.tokens} must be a multiple of every length")
    only_looks = arguments.show or arguments.keep
    if arguments.results is None and (only_looks or not arguments.dry_run):
        arguments.results = RESULTS
    if arguments.dry_run and not only_looks and arguments.results and arguments.results.resolve() == RESULTS:
        _refuse("a dry run measures nothing that is kept beside real results; give it another file with --results")
    return arguments


if __name__ == "__main__":
    main()
