"""The interface of pre-training objectives, with examples and validation.

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
# Makes the random numbers of validation independent of those of training.
_VALIDATION_STREAM = 0x7A11D


class Items(Protocol):
    """Training data: blocks of tokens, images or audio segments."""

    def __len__(self) -> int:
        """Return the number of items."""

    def __getitem__(self, index: int) -> Any:
        """Return an item in the form that the objective expects."""


@dataclass(frozen=True)
class Mean:
    """A mean over a batch.

    Attributes:
        value: The mean.
        n: Number of values; the weight of this batch in the mean over several.
    """

    value: float
    n: int


@dataclass(frozen=True)
class Score:
    """The results of a model on one batch.

    Attributes:
        losses: Means whose sum is the loss, each over its own items (tokens, pairs).
        n_items: Number of predictions.
        n_right: Number of correct predictions; None if predictions are not right or wrong.
        means: Further metrics, by name.
    """

    losses: Sequence[Mean]
    n_items: int
    n_right: int | None
    means: Mapping[str, Mean] = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """The results of a model on validation data.

    Attributes:
        loss: Loss of the objective, without guidance; in nats if it is a cross-entropy.
        accuracy: Share of correct predictions; None if predictions are not right or wrong.
        n_items: Number of predictions.
        means: Further metrics of the objective, by name.
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
    """A self-supervised training objective.

    Attributes:
        arch: Default model type, as named by transformers.
        predicts: The items that `Quality.accuracy` is a share of, for display.
        gives_perplexity: Whether the loss is the mean cross-entropy of tokens, so that exp(loss) is a perplexity.
    """

    arch: str = "roberta"
    predicts: str = "masked tokens"
    gives_perplexity: bool = False

    @abstractmethod
    def example(self, items: Any, index: int, generator: np.random.Generator, progress: float) -> Example:
        """Make a training example from one item.

        Args:
            items: All items.
            index: Index of the item.
            generator: Random generator; the example must not depend on any other.
            progress: Training progress, from 0 to 1.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> Example:
        """Combine examples into a batch of model inputs."""

    @abstractmethod
    def score(self, batch: Example, output: Any) -> Score:
        """Compute the loss and metrics of a model's output for a batch."""

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the model's configuration that the objective sets."""
        return {}

    @abstractmethod
    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """Create a model with random weights.

        Raises:
            ConfigError: The objective does not support this model type.
        """

    @abstractmethod
    def trained_model(self, name: str) -> PreTrainedModel:
        """Load a pre-trained model from a folder or the hub; raises the errors of transformers."""

    def guided_parts(self, model: PreTrainedModel) -> dict[str, PreTrainedModel]:
        """The encoders to guide, by name; the name of a single encoder is empty."""
        return {"": model}

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Save the trained model in a form that plain transformers can load."""
        model.save_pretrained(folder)


def from_config(auto_class: Any, config: PreTrainedConfig, what: str, hint: str) -> PreTrainedModel:
    """Create a model with random weights by one of transformers' auto classes.

    Raises:
        ConfigError: The class does not support this model type.
    """
    try:
        model: PreTrainedModel = auto_class.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise ConfigError(f"{config.model_type!r} has no {what} in transformers; use {hint}") from error
    return model


class Draws(Dataset[Example]):
    """All training examples of a run, as one sequence of draws.

    Draw n depends only on the seed and n: epoch n // len(items) has its own permutation, and each draw its own random
    generator. A run resumed at any step, also within an epoch, therefore sees the same examples.

    Args:
        items: The data to draw from.
        objective: Makes examples from the items.
        n_draws: Number of examples in the whole run, i.e. steps x batch size.
        seed: Random seed of order and examples.
        progress: Training progress, a scalar, in shared memory if data loader workers should see it change (default:
            the share of the draws).
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
    """Yield batches of the validation items in order, with the same random numbers every time and for every run."""
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
    """Evaluate a model on batches; its mode and torch's random state are restored.

    The batch size affects the results only by rounding.
    """
    scores: list[Score] = []
    # `manual_seed` seeds all devices, also those that the model is not on.
    cuda = range(torch.cuda.device_count())
    with evaluating(model), autocast or nullcontext(), torch.random.fork_rng(cuda):
        torch.manual_seed(_VALIDATION_STREAM)
        for cpu_batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in cpu_batch.items()}
            scores.append(objective.score(batch, model(**batch)))
    n_items = sum(score.n_items for score in scores)
    counted = [score.n_right for score in scores if score.n_right is not None]
    losses = [_weighted_mean(parts) for parts in zip(*(score.losses for score in scores), strict=True)]
    means = {name: _weighted_mean([score.means[name] for score in scores]) for name in scores[0].means}
    return Quality(sum(losses), sum(counted) / n_items if counted else None, n_items, means)


def _weighted_mean(means: Sequence[Mean]) -> float:
    """The mean over all items of several batches; batches without items are ignored, whatever their mean."""
    n = sum(mean.n for mean in means)
    return sum(mean.value * mean.n for mean in means if mean.n) / n if n else 0.0
