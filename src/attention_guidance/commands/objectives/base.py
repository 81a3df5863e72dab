"""What every objective is: how examples are made, which model learns from them, and how well it does.

Shape suffixes: B batch, T positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attention_guidance.errors import ConfigError
from attention_guidance.forward.modes import evaluating

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

Example = dict[str, Tensor]
# Keeps the draws of validation apart from those of training under the same seed.
_VALIDATION_STREAM = 0x7A11D


class Items(Protocol):
    """What is trained on: blocks of tokens, images, stretches of sound."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int) -> Any:
        """One of them, as the objective takes it."""


@dataclass(frozen=True)
class Mean:
    """A mean of one batch.

    Attributes:
        value: the mean.
        n: how many it is over; of several batches the means weigh by it.
    """

    value: float
    n: int


@dataclass(frozen=True)
class Score:
    """What a model did with one batch.

    Attributes:
        losses: the means whose sum is the loss, each over items of its own (tokens, pairs).
        n_items: predictions made.
        n_right: how many of them are right; None where there is no right or wrong.
        means: further means, by name.
    """

    losses: Sequence[Mean]
    n_items: int
    n_right: int | None
    means: Mapping[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """How well a model does on some text, images or sound.

    Attributes:
        loss: the objective's, without guidance; in nats where it is a cross-entropy.
        accuracy: share of the predictions that are right; None where there is no right or wrong.
        n_items: predictions made.
        means: further figures of the objective, by name.
    """

    loss: float
    accuracy: float | None
    n_items: int
    means: Mapping[str, float] = field(default_factory=dict)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return float(np.exp(self.loss))


class Objective(ABC):
    """A way of self-supervised training.

    Attributes:
        arch: the kind of model, as transformers calls it, where a run does not say.
        predicts: what `Quality.accuracy` is a share of, for people.
        gives_perplexity: whether the loss is the mean cross-entropy of tokens, so that exp(loss) means something.
    """

    arch: str = "roberta"
    predicts: str = "masked tokens"
    gives_perplexity: bool = False

    @abstractmethod
    def example(self, items: Any, index: int, generator: np.random.Generator, progress: float) -> Example:
        """Make a training example of one item.

        Args:
            items: all of them.
            index: the one.
            generator: source of chance; nothing else may be one.
            progress: share of the run that is done, from 0 to 1.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Example:
        """Make a batch of examples, as the model takes it."""

    @abstractmethod
    def score(self, batch: Example, output: Any) -> Score:
        """Say what the model's output for a batch is worth."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the objective decides of the model's configuration."""
        return {}

    @abstractmethod
    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """A model with random weights.

        Raises:
            ConfigError: the objective has none of this kind.
        """

    @abstractmethod
    def trained_model(self, name: str) -> PreTrainedModel:
        """A model with its weights, from a folder or the hub; raises what transformers raises."""

    def guided_parts(self, model: PreTrainedModel) -> dict[str, PreTrainedModel]:
        """The encoders to guide, by name; an objective with a single one has no name for it."""
        return {"": model}

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the trained model, so that it loads with plain transformers."""
        model.save_pretrained(folder)


def from_config(auto_class: Any, config: PreTrainedConfig, what: str, hint: str) -> PreTrainedModel:
    """A model with random weights of one of transformers' auto classes.

    Raises:
        ConfigError: it has none of this kind.
    """
    try:
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ConfigError(f"{config.model_type!r} has no {what} in transformers; take {hint}") from error
    return model


class Draws(Dataset[Example]):
    """A run's training examples, all of them, as one sequence of draws.

    Draw n is a function of the seed and n alone: epoch n // len(items) has its own permutation, and each draw its own
    chance. A run that resumes at any step, also in the middle of an epoch, therefore sees what it would have seen.

    Args:
        items: what to draw from.
        objective: what is made of them.
        n_draws: examples in the whole run, i.e. steps x batch size.
        seed: of order and chance.
        progress: the share of the run that is done, a scalar; the share of the draws without. Workers that load data
            see it change where it lies in shared memory.
    """

    def __init__(
        self,
        items: Items,
        objective: Objective,
        n_draws: int,
        seed: int,
        progress: Tensor | None = None,
    ) -> None:
        self.items = items
        self.objective = objective
        self.n_draws = n_draws
        self.seed = seed
        self.progress = progress
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.n_draws

    def __getitem__(self, draw: int) -> Example:
        epoch, place = divmod(draw, len(self.items))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.items))
            self._epoch = epoch
        generator = np.random.default_rng([self.seed, 1, draw])
        progress = draw / self.n_draws if self.progress is None else self.progress.item()
        return self.objective.example(self.items, int(self._order[place]), generator, progress)


def validation_batches(items: Items, objective: Objective, batch_size: int) -> Iterator[Example]:
    """The validation items in order, with the same chance every time and for every run."""
    for start in range(0, len(items), batch_size):
        indices = range(start, min(start + batch_size, len(items)))
        generators = (np.random.default_rng([_VALIDATION_STREAM, index]) for index in indices)
        pairs = zip(indices, generators, strict=True)
        yield objective.collate([objective.example(items, index, generator, 0.0) for index, generator in pairs])


@torch.no_grad()
def validate(
    model: PreTrainedModel,
    objective: Objective,
    batches: Iterator[Example],
    autocast: AbstractContextManager[Any] | None = None,
) -> Quality:
    """Score a model on some batches; it comes back in the mode it was in, and so does torch's chance.

    How the items are divided into batches changes the figures by rounding alone.
    """
    scores: list[Score] = []
    # All that `manual_seed` seeds, the devices that the model is not on too.
    cuda = range(torch.cuda.device_count())
    with evaluating(model), autocast or nullcontext(), torch.random.fork_rng(cuda):
        torch.manual_seed(_VALIDATION_STREAM)
        for cpu_batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in cpu_batch.items()}
            scores.append(objective.score(batch, model(**batch)))
    n_items = sum(score.n_items for score in scores)
    counted = [score.n_right for score in scores if score.n_right is not None]
    losses = [_overall(parts) for parts in zip(*(score.losses for score in scores), strict=True)]
    means = {name: _overall([score.means[name] for score in scores]) for name in scores[0].means}
    return Quality(sum(losses), sum(counted) / n_items if counted else None, n_items, means)


def _overall(means: Sequence[Mean]) -> float:
    """The mean over all items of several batches; a batch without any counts for nothing, whatever its mean."""
    n = sum(mean.n for mean in means)
    return sum(mean.value * mean.n for mean in means if mean.n) / n if n else 0.0
