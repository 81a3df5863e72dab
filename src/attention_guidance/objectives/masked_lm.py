"""Masked language modelling: the endless stream of masked batches, and the validation of a model.

Shape suffixes: B batch, T positions, N labels of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attention_guidance.objectives.masking import IGNORED, Masking

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from transformers import PreTrainedModel

    from attention_guidance.data.blocks import Blocks

Example = dict[str, Tensor]
# Keeps the masks of validation apart from those of training under the same seed.
_VALIDATION_STREAM = 0x7A11D


class MaskedDraws(Dataset[Example]):
    """A run's training examples, all of them, as one sequence of draws.

    Draw n is a function of the seed and n alone: epoch n // len(blocks) has its own permutation, and each draw its own
    masks. A run that resumes at any step, also in the middle of an epoch, therefore sees what it would have seen.

    Args:
        blocks: the sequences to draw from.
        masking: how they are masked.
        n_draws: sequences in the whole run, i.e. steps x batch size.
        seed: of order and masks.
        final_rate: what the masking rate goes to, linearly over the run; it stays the same without.
    """

    def __init__(
        self, blocks: Blocks, masking: Masking, n_draws: int, seed: int, final_rate: float | None = None
    ) -> None:
        self.blocks = blocks
        self.masking = masking
        self.n_draws = n_draws
        self.seed = seed
        self.final_rate = masking.rate if final_rate is None else final_rate
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.n_draws

    def __getitem__(self, draw: int) -> Example:
        epoch, place = divmod(draw, len(self.blocks))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.blocks))
            self._epoch = epoch
        rate = self.masking.rate + (self.final_rate - self.masking.rate) * draw / self.n_draws
        return _example(self.blocks, int(self._order[place]), self.masking, [self.seed, 1, draw], rate)


def _example(blocks: Blocks, index: int, masking: Masking, seed: list[int], rate: float | None = None) -> Example:
    length = int(blocks.lengths[index])
    inputs_T, labels_T = masking(blocks.ids[index], length, np.random.default_rng(seed), rate)
    example = {"input_ids": torch.from_numpy(inputs_T), "labels": torch.from_numpy(labels_T)}
    if length < len(inputs_T):
        example["attention_mask"] = (torch.arange(len(inputs_T)) < length).long()
    return example


def collate(examples: Sequence[Example]) -> Example:
    """Stack examples [T] to a batch [B, T].

    A batch of full blocks has no attention mask, so that attention runs without one.
    """
    batch = {name: torch.stack([example[name] for example in examples]) for name in ("input_ids", "labels")}
    if any("attention_mask" in example for example in examples):
        full_T = torch.ones_like(batch["input_ids"][0])
        batch["attention_mask"] = torch.stack([example.get("attention_mask", full_T) for example in examples])
    return batch


def validation_batches(blocks: Blocks, masking: Masking, batch_size: int) -> Iterator[Example]:
    """The validation text in order, with the same masks every time and for every run."""
    for start in range(0, len(blocks), batch_size):
        indices = range(start, min(start + batch_size, len(blocks)))
        yield collate([_example(blocks, index, masking, [_VALIDATION_STREAM, index]) for index in indices])


@dataclass(frozen=True)
class Quality:
    """How well a model predicts masked tokens.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of masked tokens whose most likely prediction is right.
        n_labels: masked tokens predicted.
    """

    loss: float
    accuracy: float
    n_labels: int

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return float(np.exp(self.loss))


@torch.no_grad()
def validate(
    model: PreTrainedModel,
    batches: Iterator[Example],
    autocast: AbstractContextManager[Any] | None = None,
) -> Quality:
    """Predict the masked tokens of some batches; the model comes back in the mode it was in."""
    was_training = model.training
    model.eval()
    loss, n_right, n_labels = 0.0, 0, 0
    try:
        with autocast or nullcontext():
            for cpu_batch in batches:
                batch = {name: tensor.to(model.device) for name, tensor in cpu_batch.items()}
                output = model(**batch)
                labels_N = batch["labels"][batch["labels"] != IGNORED]
                logits = output.logits
                # With the masked head the logits are those of the labels already.
                logits_NV = logits if logits.dim() == 2 else logits[batch["labels"] != IGNORED]
                loss += output.loss.item() * len(labels_N)
                n_right += int((logits_NV.argmax(-1) == labels_N).sum())
                n_labels += len(labels_N)
    finally:
        model.train(was_training)
    return Quality(loss / n_labels, n_right / n_labels, n_labels)
