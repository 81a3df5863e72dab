"""Alternate between several runs every few steps, so that a noisy machine slows them all equally."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

import greenlet  # type: ignore[import-untyped]
import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Trains(Protocol):
    """A run that trains from start to end in one call."""

    def train(self) -> bool:
        """Train; return whether the run finished."""


class GiveTurn(TrainerCallback):  # type: ignore[misc]
    """Switch to the next run after every few steps. Must be the last callback of a run.

    Args:
        stretch: Number of consecutive steps.
    """

    def __init__(self, stretch: int) -> None:
        self.stretch = stretch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Switch to the next run if the stretch has ended."""
        hub = greenlet.getcurrent().parent
        if hub is not None and state.global_step % self.stretch == 0:
            hub.switch()


def train_in_turn(runs: Sequence[Trains]) -> list[bool]:
    """Train runs concurrently; each must have a `GiveTurn` callback.

    Each run is a coroutine on this thread with its own random generator states, so its results are exactly those of
    training it alone.

    Returns:
        For each run, whether it finished.
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
    """The states of all global random generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _set_generators(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
