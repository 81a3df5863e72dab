"""The weight of guidance as a function of training progress.

Exact after a resume, because it is a function of the step alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsFloat

from attention_guidance.errors import ConfigError

SHAPES = ("constant", "linear", "hold-then-linear", "cosine")


def checked_weight(weight: object) -> float:
    """A weight of guidance as a float: any number of Python, numpy or torch that is finite and not negative.

    Raises:
        ConfigError: it is something else.
    """
    # A bool is an int to Python, but as a weight it is a slip.
    if isinstance(weight, SupportsFloat) and not isinstance(weight, bool):
        try:
            number = float(weight)
        except (TypeError, ValueError, ArithmeticError, RuntimeError):  # several numbers, one too large, a complex one
            number = math.nan
        if 0 <= number < math.inf:
            return number
    raise ConfigError(f"weight={weight!r} must be 0 or a positive number")


@dataclass(frozen=True)
class Schedule:
    """How the weight goes from its full value to 0.

    Attributes:
        shape: `constant` (no change); `linear` (falls from the first step on); `hold-then-linear` (full for a while,
            then falls linearly: the authors', who hold for 20,000 steps); `cosine` (as before, along half a cosine).
        hold: how long the weight stays full: steps (an int) or a share of the run (a float from 0 to 1). `linear`
            takes none.
        end: when it reaches 0, in the same units.
    """

    shape: str = "constant"
    hold: int | float = 0.2
    end: int | float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ConfigError(f"unknown schedule {self.shape!r}; expected one of {', '.join(SHAPES)}")
        for name, value in (("hold", self.hold), ("end", self.end)):
            if value < 0 or (isinstance(value, float) and value > 1):
                raise ConfigError(
                    f"schedule {name}={value!r} must be steps (an integer) or a share of the run (0.0 to 1.0)"
                )

        if isinstance(self.hold, int) == isinstance(self.end, int):
            self._check_order(self.hold, self.end)

    def _check_order(self, hold: float, end: float) -> None:
        if self.shape not in ("constant", "linear") and end < hold:
            raise ConfigError(
                f"schedule end={self.end!r} comes before hold={self.hold!r}; integers are steps, shares of the run are "
                "written with a point (1.0 is its end)"
            )

    @property
    def needs_total(self) -> bool:
        """Whether the factor can be told only when the run's length is known."""
        if self.shape == "constant":
            return False
        return isinstance(self.end, float) or (self.shape != "linear" and isinstance(self.hold, float))

    def factor(self, step: int, total_steps: int | None = None) -> float:
        """The share of the full weight at a step.

        Args:
            step: optimisation steps already made.
            total_steps: steps of the whole run; needed where `hold` or `end` are shares.

        Returns:
            A number from 1 (full weight) to 0.
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
            f"the schedule ends or holds for a share ({amount}) of the run, whose length is not known: give "
            "total_steps= to guide(), add callbacks=[guidance.callback()] to the Trainer, or give steps as integers"
        )
    return amount * total_steps
