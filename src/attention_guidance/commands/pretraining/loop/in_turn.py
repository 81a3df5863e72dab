"""Train several runs in turn, a stretch of steps each, so that a noisy machine hits all alike."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

import greenlet  # type: ignore[import-untyped]
import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Trains(Protocol):
    """Something that trains from beginning to end in one call."""

    def train(self) -> bool:
        """Train; whether the end was reached."""


class GiveTurn(TrainerCallback):  # type: ignore[misc]
    """Hands the machine to the next run after every stretch of steps. To be the last of a run's callbacks.

    Args:
        stretch: steps in a row.
    """

    def __init__(self, stretch: int) -> None:
        self.stretch = stretch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give the turn away where a stretch ends."""
        hub = greenlet.getcurrent().parent
        if hub is not None and state.global_step % self.stretch == 0:
            hub.switch()


def train_in_turn(runs: Sequence[Trains]) -> list[bool]:
    """Train runs that carry a `GiveTurn` callback side by side.

    Each run is a coroutine of this thread, with random number generators of its own, and so computes exactly what it
    would alone.

    Returns:
        Whether each came to its end.
    """
    turns = [greenlet.greenlet(run.train) for run in runs]
    generators = [_generators() for _ in runs]
    ended: dict[int, bool] = {}
    while len(ended) < len(runs):
        for number, turn in enumerate(turns):
            if number not in ended:
                _set_generators(generators[number])
                value = turn.switch()
                generators[number] = _generators()
                if turn.dead:
                    ended[number] = value
    return [ended[number] for number in range(len(runs))]


def _generators() -> tuple[Any, ...]:
    """The state of all global random number generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_generators(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
