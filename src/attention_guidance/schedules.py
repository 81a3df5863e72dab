"""The guidance weight: a number or relative to the objective, and schedules for it over training.

A schedule depends on the step alone, so it is exact after a resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, SupportsFloat, get_args

from attention_guidance.errors import ConfigError

Shape = Literal["constant", "linear", "hold-then-linear", "cosine"]
"""The shape of a schedule; see `Schedule`."""

SHAPES: tuple[Shape, ...] = get_args(Shape)


def checked_weight(weight: object) -> float:
    """A guidance weight as a float, from any finite, non-negative number of Python, NumPy or PyTorch.

    Raises:
        ConfigError: `weight` is anything else.
    """
    # A bool is an int in Python, but as a weight it is a mistake.
    if isinstance(weight, SupportsFloat) and not isinstance(weight, bool):
        try:
            number = float(weight)
        except (TypeError, ValueError, ArithmeticError, RuntimeError):  # several numbers, too large, complex
            number = math.nan
        if 0 <= number < math.inf:
            return number
    raise ConfigError(f"weight={weight!r} must be 0 or a positive number")


@dataclass(frozen=True)
class RelativeWeight:
    """A weight relative to the objective: one number for objectives whose losses have different scales.

    The weight is `ratio` times the objective's loss in the first training step, and stays that number: 0.01 is close to
    the default weight, 0.1, for masked tokens, whose first loss is about the log of the vocabulary size. It is 0 in the
    first step.

    Attributes:
        ratio: weight over the objective's first loss.

    Raises:
        ConfigError: `ratio` is not a positive number.

    Examples:
        >>> guidance = guide(model, "next:1", weight=RelativeWeight(0.01))
        >>> first = model(**batch).loss.item()
        >>> guidance.step()
        >>> abs(guidance.current_weight - 0.01 * first) < 1e-6
        True
    """

    ratio: float

    def __post_init__(self) -> None:
        ratio = checked_weight(self.ratio)
        if not ratio:
            raise ConfigError(f"RelativeWeight({self.ratio!r}) must be above 0")
        object.__setattr__(self, "ratio", ratio)


@dataclass(frozen=True)
class Schedule:
    """How the weight decays from its full value to 0.

    Examples:
        >>> schedule = Schedule("hold-then-linear", hold=0.2, end=1.0)
        >>> [schedule.factor(step, total_steps=100) for step in (0, 20, 60, 100)]
        [1.0, 1.0, 0.5, 0.0]

    Attributes:
        shape: `constant` (no decay); `linear` (linear decay from the first step); `hold-then-linear` (full weight at
            first, then linear decay: the authors' schedule, with a hold of 20,000 steps); `cosine` (the same with
            cosine decay).
        hold: how long the weight stays full, in steps (int) or as a fraction of the run (float from 0 to 1). `linear`
            ignores it.
        end: when the weight reaches 0, in the same units.
    """

    shape: Shape = "constant"
    hold: int | float = 0.2
    end: int | float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"unknown schedule {self.shape!r}; expected one of {', '.join(SHAPES)}")
        for name, value in (("hold", self.hold), ("end", self.end)):
            if value < 0 or (isinstance(value, float) and value > 1):
                raise ConfigError(
                    f"schedule {name}={value!r} must be steps (an integer) or a fraction of the run (0.0 to 1.0)"
                )

        if isinstance(self.hold, int) == isinstance(self.end, int):
            self._check_order(self.hold, self.end)

    def _check_order(self, hold: float, end: float) -> None:
        if self.shape not in ("constant", "linear") and end < hold:
            raise ConfigError(
                f"schedule end={self.end!r} comes before hold={self.hold!r}; integers are steps, floats are fractions "
                "of the run (1.0 is its end)"
            )

    @property
    def needs_total(self) -> bool:
        """Whether the factor depends on the length of the run."""
        if self.shape == "constant":
            return False
        return isinstance(self.end, float) or (self.shape != "linear" and isinstance(self.hold, float))

    def factor(self, step: int, total_steps: int | None = None) -> float:
        """The factor on the full weight at a step.

        Args:
            step: number of optimizer steps done.
            total_steps: number of steps of the whole run; required if `hold` or `end` is a fraction.

        Returns:
            A number from 0 to 1 (full weight).
        """
        if self.shape == "constant":
            return 1.0
        hold = 0.0 if self.shape == "linear" else _steps(self.hold, total_steps)
        end = _steps(self.end, total_steps)
        self._check_order(hold, end)
        if step < hold:
            return 1.0
        if step >= end:
            return 0.0
        gone = (step - hold) / (end - hold)
        return 0.5 * (1 + math.cos(math.pi * gone)) if self.shape == "cosine" else 1 - gone


def _steps(amount: int | float, total_steps: int | None) -> float:
    if isinstance(amount, int):
        return amount
    if total_steps is None:
        raise ConfigError(
            f"the schedule uses a fraction ({amount}) of the run, but the length of the run is unknown: pass "
            "total_steps= to guide(), add callbacks=[guidance.callback()] to the Trainer, or give steps as integers"
        )
    return amount * total_steps
