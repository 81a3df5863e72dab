"""What `speed.py` measures at one size."""

from __future__ import annotations

import functools
import gc
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from attention_guidance.commands.results import header, processor

from ..turns import step_time, take_turns
from .arms import (
    ARMS,
    BASELINE,
    DTYPES,
    GUIDED,
    PASSES,
    SEED,
    UNGUIDED,
    WEIGHT,
    Arm,
    Attend,
    Clock,
    Setting,
    Tensors,
    way,
)
from .check import TOLERANCE, errors, fault

_WARM_UP = {"cuda": 5, "cpu": 1}
_CEILING = {"cuda": 8192, "cpu": 64}
_PRODUCTS = 20


def measure(setting: Setting, rounds: int, seconds: float) -> dict[str, Any]:
    """Every arm at one size: what it takes, beside SDPA's flash kernel and beside a product of matrices."""
    # The compiler takes few sizes of one function.
    torch._dynamo.reset()
    most = ceiling(setting.dtype, setting.device)
    tensors = Tensors(setting)
    ways, figures, skipped = _ready(setting, tensors)
    made: dict[str, int] = {}
    over_unguided: dict[str, dict[str, float]] = {}
    for part, share in PASSES.items():
        arms = {name: _warm(attend, part, setting, tensors) for name, attend in ways.items()}
        times = take_turns(arms, rounds, seconds / len(PASSES))
        made[part] = max([0, *map(len, times.values())])
        for name, taken in times.items():
            found = _figures(taken, arms[name].clock, times.get(BASELINE))
            tflops = share * setting.flop / found["p50_ms"] / 1e9
            figures[name][part] = found | {"tflops": tflops, "of_ceiling": tflops / most}
        if GUIDED in times and UNGUIDED in times:
            over_unguided[part] = step_time(times[GUIDED], times[UNGUIDED])
    ways.clear()
    _give_back(setting)
    beside = figures.get(BASELINE, {}).get("peak_mib")
    for arm in figures.values():
        arm["memory_ratio"] = arm["peak_mib"] / beside if beside else None
    return _record(setting, figures, skipped) | {
        "rounds": made,
        "ceiling": {"size": _CEILING[setting.device], "tflops": most},
        "guided_over_unguided": over_unguided,
    }


@functools.cache
def ceiling(dtype: str, device: str) -> float:
    """TFLOP/s of a product of large random matrices, the median of some."""
    size = _CEILING[device]
    left, right = (torch.randn(size, size, device=device).to(DTYPES[dtype]) for _ in range(2))
    clock = Clock(device)
    taken = [clock(lambda: left @ right) for _ in range(_WARM_UP[device] + _PRODUCTS)][-_PRODUCTS:]
    return float(2 * size**3 / np.median(taken) / 1e12)


def _ready(setting: Setting, tensors: Tensors) -> tuple[dict[str, Attend], dict[str, dict[str, Any]], dict[str, str]]:
    """The arms that are right and run at this size, with their errors and memory, and why the others do not."""
    ways: dict[str, Attend] = {}
    figures: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name in ARMS:
        try:
            found = errors(name, setting)
            reason = fault(found, setting.dtype)
            if reason is None:
                attend = way(name, setting)
                figures[name] = {"errors": found, "peak_mib": _peak(attend, setting, tensors)}
                ways[name] = attend
        except Exception as error:  # whatever a kernel or a compiler may raise
            reason = _cause(error)
        if reason is not None:
            skipped[name] = reason
            print(f"skipped {name} at {named(setting)}: {reason}", flush=True)
            _give_back(setting)
    return ways, figures, skipped


def _cause(error: BaseException) -> str:
    """What an error comes from, in a line: the compiler's own hides it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _peak(attend: Attend, setting: Setting, tensors: Tensors) -> float | None:
    """The most memory that forward and backward take beyond their inputs, in MiB; None where there is no GPU."""
    arm = _warm(attend, "both", setting, tensors)
    if setting.device != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    arm.step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _warm(attend: Attend, part: str, setting: Setting, tensors: Tensors) -> Arm:
    """An arm that has compiled what it needs to, and whose clock knows how long it takes to be launched."""
    arm = Arm(attend, part, setting, tensors)
    for _ in range(_WARM_UP[setting.device]):
        arm.step()
    return arm


def _figures(taken: list[float], clock: Clock, baseline: list[float] | None) -> dict[str, float]:
    p20, p50, p80 = (1000 * float(np.percentile(taken, percent)) for percent in (20, 50, 80))
    rounds = len(taken)
    host = {
        "launch_ms": 1000 * float(np.median(clock.host[-rounds:])),
        "host_bound": float(np.mean(clock.late[-rounds:])),
    }
    figures = {"p20_ms": p20, "p50_ms": p50, "p80_ms": p80} | host
    return figures | (step_time(taken, baseline) if baseline else {})


def _give_back(setting: Setting) -> None:
    """Give memory back before that of others is measured."""
    gc.collect()
    if setting.device == "cuda":
        torch.cuda.empty_cache()


def _record(setting: Setting, arms: dict[str, dict[str, Any]], skipped: dict[str, str]) -> dict[str, Any]:
    import triton

    shared = {key: value for key, value in header("kernel").items() if key != "command"}
    on_gpu = setting.device == "cuda"
    more = {"triton": triton.__version__, "cuda": torch.version.cuda}
    return shared | {
        "versions": shared["versions"] | more,
        "processor": processor(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if on_gpu else None,
        "settings": asdict(setting) | {"guided": setting.guided, "weight": WEIGHT, "seed": SEED},
        "length": setting.length,
        "channels": setting.channels,
        "dtype": setting.dtype,
        "tolerance": TOLERANCE[setting.dtype],
        "arms": arms,
        "skipped": skipped,
    }


def named(setting: Setting) -> str:
    """A size in words."""
    return f"T={setting.length}, {setting.channels} channels, {setting.dtype}"
