"""Means, intervals and the numbers that studies compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from .study import Kept, Record, Spec

HOLDS, IN_PART, NOT_HERE = "holds", "holds in part", "does not hold here"
#: The runs cannot tell.
UNDECIDED = "undecided"
# How far a loss must lie below the entropy of single tokens to count as off the plateau, in nats.
MARGIN = 0.5


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval (Student's t); for one seed the ends are not known.

    Attributes:
        mean: The mean.
        low: Lower end; NaN for one seed.
        high: Upper end; NaN for one seed.
        n: Number of seeds.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.high < 0

    def text(self, form: str = "+.3f") -> str:
        """As in a table."""
        if self.n < 2:
            return f"{self.mean:{form}} (one seed)"
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


def interval(values: Sequence[float]) -> Interval:
    """The mean of some values and its interval."""
    from scipy.stats import t

    n, mean = len(values), fmean(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(t.ppf(0.975, n - 1)) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def mean_text(records: Sequence[Record], form: str = ".3f") -> str:
    """Mean and standard deviation of final losses."""
    losses = [record["loss"] for record in records]
    if not losses:
        return "–"
    if None in losses:
        return f"diverged ({losses.count(None)} of {len(losses)})"
    return f"{fmean(losses):{form}}" + (f" ± {stdev(losses):{form}}" if len(losses) > 1 else "")


def percent(share: float) -> str:
    """A share as a whole number of per cents; never -0."""
    return f"{round(100 * share)} %"


def pairs_of(kept: Kept, first: Sequence[Spec], second: Sequence[Spec]) -> list[tuple[Record, Record]]:
    """The results of two arms for those seeds that both have."""
    return [(kept[a], kept[b]) for a, b in zip(first, second, strict=True) if a in kept and b in kept]


def differences(pairs: Sequence[tuple[Record, Record]]) -> list[float]:
    """Final loss of the first minus that of the second, where neither diverged."""
    return [a["loss"] - b["loss"] for a, b in pairs if None not in (a["loss"], b["loss"])]


def steps_ratio(pair: tuple[Record, Record]) -> float | None:
    """The first validated step at which the first run is at or below the second's final loss, over all its steps.

    None if there is none, or if the second run diverged.
    """
    curve, goal = pair[0]["curve"], pair[1]["loss"]
    if goal is None:
        return None
    reached = (step for step, loss in curve if loss <= goal)
    step = next(reached, None)
    return None if step is None else float(step / pair[1]["settings"]["max_steps"])


def ratios_text(pairs: Sequence[tuple[Record, Record]]) -> str:
    """The steps ratio of each seed."""
    return ", ".join("never" if ratio is None else f"{ratio:.2f}" for ratio in map(steps_ratio, pairs))


def off_plateau(record: Record, margin: float = MARGIN) -> bool:
    """Whether a run ends that far below what any model could reach without context."""
    return record["loss"] is not None and bool(record["loss"] < record["unigram_entropy"] - margin)


def leaves_plateau(record: Record) -> float | None:
    """The first validated step, as a share of the run, from which on a run is off the plateau; None if never."""
    goal = record["unigram_entropy"] - MARGIN
    step = next((step for step, loss in record["curve"] if loss < goal), None)
    return None if step is None else float(step / record["settings"]["max_steps"])


def verdict_of(found: Sequence[bool]) -> str:
    """`holds` if all are true, `holds in part` if some are."""
    return HOLDS if found and all(found) else IN_PART if any(found) else NOT_HERE


def table(*rows: Sequence[Any]) -> list[list[str]]:
    """The cells of a table as text."""
    return [[str(cell) for cell in row] for row in rows]
