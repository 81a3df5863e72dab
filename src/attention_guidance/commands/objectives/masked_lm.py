"""Masked language modelling: some tokens are masked, and the model predicts them.

Shape suffixes: B batch, T positions, N labels of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from attention_guidance.commands.objectives.base import Example, Mean, Objective, Score, from_config
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masking import IGNORED

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.text.blocks import Blocks

# Ids [T], length without padding, random generator, masking rate -> input ids [T], labels [T].
Corruption = Callable[
    ["NDArray[np.integer[Any]]", int, np.random.Generator, float | None],
    "tuple[NDArray[np.int64], NDArray[np.int64]]",
]


class MaskedTokens(Objective):
    """Predict masked or replaced tokens (BERT's masked language model).

    Args:
        corrupt: Masks or replaces tokens and returns the labels; see `masking`.
        rate: Share of tokens to mask at the start of the run (default: the corruption's own rate).
        final_rate: Share at the end of the run, reached linearly (default: the same as at the start).
    """

    gives_perplexity = True

    def __init__(self, corrupt: Corruption, rate: float | None = None, final_rate: float | None = None) -> None:
        self.corrupt = corrupt
        self.rate = rate
        self.final_rate = rate if final_rate is None else final_rate

    def example(self, items: Blocks, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: `input_ids` and `labels` [T], and `attention_mask` [T] if there is padding."""
        ids_T, length = items[index]
        return self.masked_example(ids_T, length, generator, progress)

    def masked_example(
        self, ids_T: NDArray[np.integer[Any]], length: int, generator: np.random.Generator, progress: float
    ) -> Example:
        """Make an example from one sequence, of which the first `length` tokens are not padding."""
        rate = None
        if self.rate is not None and self.final_rate is not None:
            rate = self.rate + (self.final_rate - self.rate) * progress
        inputs_T, labels_T = self.corrupt(ids_T, length, generator, rate)
        example = {"input_ids": torch.from_numpy(inputs_T), "labels": torch.from_numpy(labels_T)}
        if length < len(inputs_T):
            example["attention_mask"] = (torch.arange(len(inputs_T)) < length).long()
        return example

    def collate(self, examples: Sequence[Example]) -> Example:
        """Stack examples [T] into a batch [B, T].

        A batch of full blocks has no attention mask, so that attention is computed without one.
        """
        names = [name for name in examples[0] if name != "attention_mask"]
        batch = {name: torch.stack([example[name] for example in examples]) for name in names}
        if any("attention_mask" in example for example in examples):
            full_T = torch.ones_like(batch["input_ids"][0])
            batch["attention_mask"] = torch.stack([example.get("attention_mask", full_T) for example in examples])
        return batch

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; the items are the tokens to predict."""
        n_labels, n_right = count_correct(batch, output.logits)
        return Score([Mean(output.loss.item(), n_labels)], n_labels, n_right)

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        hint = "roberta, bert, modernbert, ..."
        return _with_masked_head(from_config(AutoModelForMaskedLM, config, "masked language model", hint))

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`."""
        return _with_masked_head(AutoModelForMaskedLM.from_pretrained(name, trust_remote_code=False))


def count_correct(batch: Example, logits: torch.Tensor) -> tuple[int, int]:
    """Count labels and correct predictions, by logits [B, T, V], or [N, V] from a `MaskedHead`."""
    labels_N = batch["labels"][batch["labels"] != IGNORED]
    logits_NV = logits if logits.dim() == 2 else logits[batch["labels"] != IGNORED]
    return len(labels_N), int((logits_NV.argmax(-1) == labels_N).sum())


def _with_masked_head(model: PreTrainedModel) -> PreTrainedModel:
    MaskedHead(model)
    return model
