"""What benchmarks share: arms that take turns, the ratio of two, results that are kept as soon as they are known."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from attention_guidance.errors import GuidanceError

_SEED = 1
_RESAMPLES = 2000


class Arm(Protocol):
    """One of the things that are compared."""

    def step(self) -> float:
        """Do it once; the seconds it took."""


class Training:
    """A model and the batch it is trained on, an arm of its own; `within` is entered for each forward pass."""

    def __init__(
        self,
        model: PreTrainedModel,
        batch: dict[str, torch.Tensor],
        dtype: torch.dtype | None,
        within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.batch, self.dtype, self.within = model, batch, dtype, within
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self) -> float:
        """A training step."""
        device = self.model.device.type
        began = time.perf_counter()
        with torch.autocast(device, self.dtype, enabled=self.dtype is not None), self.within():
            loss = self.model(**self.batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def take_turns(arms: Mapping[str, Arm], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of every arm's step in every round; ends early, but with two rounds, when the time is up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    order, chance, begin = list(arms), random.Random(_SEED), time.monotonic()
    for done in range(rounds):
        if done >= 2 and time.monotonic() - begin > seconds:
            print(f"stopped after {done} of {rounds} rounds: {seconds:.0f} seconds are over", flush=True)
            break
        chance.shuffle(order)
        for name in order:
            times[name].append(arms[name].step())
    return times


def step_time(seconds: Sequence[float], unguided: Sequence[float]) -> dict[str, float]:
    """The median over rounds of an arm's time over unguided's, with a bootstrap 95 % interval."""
    ratios = np.array(seconds) / np.array(unguided)
    resampled = np.random.default_rng(_SEED).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(resampled, axis=1), (2.5, 97.5))
    return {"ratio": float(np.median(ratios)), "ratio_low": float(low), "ratio_high": float(high)}


def newest(path: Path, *names: str) -> list[dict[str, Any]]:
    """Of the results in a file, for all values that these fields take together, the newest."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    records = map(json.loads, lines)
    return list({tuple(record[name] for name in names): record for record in records}.values())


def keep(path: Path, records: Iterable[dict[str, Any]], told: Callable[[dict[str, Any]], str] | None = None) -> int:
    """Add each result to a file as soon as it is known.

    Args:
        path: The file.
        records: The results; transformers prints nothing while they are made.
        told: What to print of a result.

    Returns:
        The exit code: 2 after an error of the project, which is printed, else 0.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        for record in records:
            append(path, [record])
            if told is not None:
                print(told(record), file=sys.stderr, flush=True)
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def append(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add results to a file, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
