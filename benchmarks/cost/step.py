"""What guidance costs in a whole training step, in time and peak memory, against unguided SDPA.

    python -m benchmarks.cost.step                     half an hour on 2 cores; where bf16 is emulated, some hours more
    python -m benchmarks.cost.step --dtypes fp32 --lengths 128 512
    python -m benchmarks.cost.step growth              peak memory at T = 512 and T = 4096, tokens a step held constant
    python -m benchmarks.cost.step --keep cost.jsonl   keep the results of another machine, written there with --results
    python -m benchmarks.cost.step --show              the tables of all results kept so far

A step is forward, backward, AdamW and zero_grad. Its arms: `unguided`; one for each backend of guidance; and `naive`,
the authors' way. All stand in one process and take turns, in an order drawn anew for every round. *Step time* is an
arm's time over unguided's of the same round: the median over rounds, with a bootstrap 95 % interval. *Memory* is an
arm's peak over unguided's, each taken in a process of its own, beyond the bare interpreter. *Growth* is an arm's peak
at the greater length over its peak at the smaller, and its ratio to unguided's. Targets are held against the backend
that `auto` takes.

What it finds is appended to results/cost.jsonl, one line a length and dtype, as soon as it is known.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_guidance.commands.pretraining.settings.arguments import choose_precision
from attention_guidance.commands.results import header, processor
from attention_guidance.loss import backends

from .. import BENCHMARKS
from ..turns import append, step_time, take_turns
from .arms import CANNOT_SERVE, LABELLED, NAIVE, SEED, UNGUIDED, WEIGHT, Arm, Setting, in_one_line, peak_memory
from .tables import markdown, report

RESULTS = BENCHMARKS / "results" / "cost.jsonl"
_WARM_UP = 2
_ROUNDS = {"cpu": 40, "cuda": 200}
_EMULATED_ROUNDS = 5


def main() -> None:
    arguments = _arguments()
    for path in arguments.keep:
        append(arguments.results, map(json.loads, path.read_text(encoding="utf-8").splitlines()))
    if arguments.keep or arguments.show:
        if not arguments.results.exists():
            sys.exit(f"error: no results are kept in {arguments.results} yet")
        print(markdown([json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines()]))
        return
    for setting in _settings(arguments):
        kept = growth(setting, arguments) if arguments.what == "growth" else steps(setting, arguments)
        append(arguments.results, [kept])
        print(f"\n{report(kept)}", flush=True)


def steps(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of a step of every arm that this device can serve."""
    rounds, warm_up = arguments.repeats or _ROUNDS[setting.device], _WARM_UP
    if _is_emulated(setting):
        rounds, warm_up = min(rounds, _EMULATED_ROUNDS), 1
    arms, figures, skipped = _warmed_up([UNGUIDED, *arguments.backends, NAIVE], setting, warm_up)
    times = take_turns(arms, rounds, arguments.seconds)
    for name, seconds in times.items():
        p20, p50, p80 = (1000 * float(np.percentile(seconds, percent)) for percent in (20, 50, 80))
        figures[name] |= {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80, **step_time(seconds, times[UNGUIDED])}
        figures[name]["step_ms"] = [round(1000 * second, 2) for second in seconds]
    # Their memory is given back before that of others is measured.
    names = list(arms)
    arms.clear()
    gc.collect()
    torch.cuda.empty_cache()
    for name in names if arguments.memory else ():
        peak = figures[name]["peak_mib"] = _peak(name, setting, skipped)
        beside = figures[UNGUIDED]["peak_mib"]
        figures[name]["memory_ratio"] = peak / beside if peak and beside else None
    return _record("cost", setting, figures, skipped) | {"length": setting.length, "rounds": len(times[UNGUIDED])}


def growth(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of unguided and each backend at two lengths."""
    short, long = min(arguments.lengths), max(arguments.lengths)
    figures: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in (UNGUIDED, *arguments.backends):
        peaks = [_peak(name, replace(setting, length=length), skipped) for length in (short, long)]
        if peaks[0] and peaks[1]:
            figures[name] = {"peak_mib": peaks, "growth": peaks[1] / peaks[0]}
    if UNGUIDED not in figures:
        sys.exit(f"error: unguided has no peak memory to compare with: {skipped[UNGUIDED]}")
    for arm in figures.values():
        arm["growth_ratio"] = arm["growth"] / figures[UNGUIDED]["growth"]
    return _record("cost growth", setting, figures, skipped) | {"lengths": [short, long]}


def _warmed_up(
    names: Iterable[str], setting: Setting, warm_up: int
) -> tuple[dict[str, Arm], dict[str, dict[str, Any]], dict[str, str]]:
    """The arms that this device can serve, each one's first loss, and why it cannot serve the others."""
    arms: dict[str, Arm] = {}
    figures: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            arm = Arm(name, setting)
            figures[name] = {"first_loss": arm.first_step()}
            for _ in range(warm_up - 1):
                arm.step()
            arms[name] = arm
        except CANNOT_SERVE as error:
            if name == UNGUIDED:
                raise
            figures.pop(name, None)
            _skip(name, in_one_line(error), setting, skipped)
    return arms, figures, skipped


def _peak(name: str, setting: Setting, skipped: dict[str, str]) -> float | None:
    """An arm's peak memory; None where its process fails or has failed before."""
    try:
        return None if name in skipped else peak_memory(name, setting)
    except RuntimeError as error:
        _skip(name, f"peak memory: {error}", setting, skipped)
        return None


def _skip(name: str, reason: str, setting: Setting, skipped: dict[str, str]) -> None:
    skipped[name] = reason
    print(f"skipped {name} at T={setting.length} in {setting.dtype}: {reason}", flush=True)


def _record(kind: str, setting: Setting, arms: dict[str, dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    settings = asdict(setting) | {"guided": setting.guided, "weight": WEIGHT, "labelled": LABELLED, "seed": SEED}
    return {key: value for key, value in header(kind).items() if key != "command"} | {
        "processor": processor(),
        "threads": setting.threads,
        "dtype": setting.dtype,
        "bf16_emulated": _is_emulated(setting),
        "settings": {key: value for key, value in settings.items() if key not in ("dtype", "length", "threads")},
        "auto": _taken_by_auto(setting),
        "arms": arms,
        "skipped": skipped,
    }


def _taken_by_auto(setting: Setting) -> str:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setting.dtype]
    return backends.automatic(backends.Case(setting.device, dtype, setting.length)).name


def _is_emulated(setting: Setting) -> bool:
    return setting.dtype == "bf16" and setting.device == "cpu" and choose_precision("auto") != "bf16"


def _settings(arguments: argparse.Namespace) -> Iterable[Setting]:
    size = {
        key: getattr(arguments, key) for key in ("layers", "hidden", "heads", "vocabulary", "masked_head", "tokens")
    }
    is_growth = arguments.what == "growth"
    for dtype in arguments.dtypes:
        # `growth` sees to the lengths itself, with as many position embeddings at both.
        for length in [min(arguments.lengths)] if is_growth else arguments.lengths:
            setting = Setting(
                **size,
                length=length,
                positions=max(arguments.lengths) if is_growth else length,
                dtype=dtype,
                device=arguments.device,
                threads=torch.get_num_threads(),
            )
            if _is_emulated(setting):
                print(
                    "this CPU has no bf16 instructions (avx512_bf16, amx): bf16 is emulated, a step takes some twenty "
                    f"times as long as in fp32; no more than {_EMULATED_ROUNDS} rounds are made",
                    flush=True,
                )
            yield setting


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost.step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("steps", "growth"), default="steps")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12, help="heads of a layer; half of them are guided")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--masked-head", action="store_true", help="project at labelled positions only, as pretrain")
    parser.add_argument("--tokens", type=int, help="tokens a step (default 2048, growth 4096)")
    parser.add_argument(
        "--lengths", type=int, nargs="+", help="tokens a sequence (default 128 512 2048, growth 512 4096)"
    )
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16"), help="default both; growth: bf16 if native")
    parser.add_argument("--backends", nargs="*", default=[*backends.NAMES], help="default all that the library knows")
    parser.add_argument("--repeats", type=int, help=f"rounds (default {_ROUNDS['cpu']}, on a GPU {_ROUNDS['cuda']})")
    parser.add_argument("--seconds", type=float, default=1800, help="limit on the rounds of one length and dtype")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--threads", type=int, help="threads of torch on a CPU")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="results of another machine to keep too")
    parser.add_argument("--show", action="store_true", help="print the tables of the results kept so far")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that everything here and in the library sees a CPU only
    arguments.device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    is_growth = arguments.what == "growth"
    arguments.tokens = arguments.tokens or (4096 if is_growth else 2048)
    arguments.lengths = arguments.lengths or ([512, 4096] if is_growth else [128, 512, 2048])
    both = not is_growth or choose_precision("auto") == "bf16"
    arguments.dtypes = arguments.dtypes or (["fp32", "bf16"] if both else ["fp32"])
    if any(arguments.tokens % length for length in arguments.lengths):
        parser.error(f"--tokens {arguments.tokens} must be a multiple of every length")
    if is_growth and len(arguments.lengths) < 2:
        parser.error("growth needs two lengths")
    return arguments


if __name__ == "__main__":
    main()
