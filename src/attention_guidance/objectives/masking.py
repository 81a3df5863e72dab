"""Dynamic masking for masked language modelling, as a pure function of a seed and the number of the draw.

Because nothing is remembered between draws, a run that stops and resumes anywhere sees the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.data.tokenizers import vocabulary_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Masking:
    """BERT's masking: of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay as they are.

    The number of chosen tokens is a fixed share of the sequence's length (BERT's own way), so that every batch of full
    blocks holds the same number of labels and gradient accumulation weighs its parts alike.

    Attributes:
        rate: share of the tokens to predict.
        mask_id: id of the mask token.
        special_ids: ids that are never chosen and never drawn as random tokens.
        vocabulary: size of the vocabulary.
    """

    rate: float
    mask_id: int
    special_ids: frozenset[int]
    vocabulary: int

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, rate: float = 0.15) -> Masking:
        """Masking with a tokenizer's mask and special tokens."""
        return cls(rate, tokenizer.mask_token_id, frozenset(tokenizer.all_special_ids), vocabulary_size(tokenizer))

    def __call__(
        self, ids_T: NDArray[np.integer], length: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Mask one sequence.

        Args:
            ids_T: its token ids, padding included.
            length: how many of them are not padding.
            generator: source of chance.

        Returns:
            What the model sees [T], and the labels [T]: the true id where something is to be predicted, else -100.
        """
        inputs_T = ids_T.astype(np.int64)
        labels_T = np.full_like(inputs_T, IGNORED)
        candidates = np.flatnonzero(np.isin(inputs_T[:length], self._ordinary_ids))
        n_chosen = min(len(candidates), max(1, round(self.rate * length)))
        chosen = generator.choice(candidates, n_chosen, replace=False) if n_chosen else candidates
        labels_T[chosen] = inputs_T[chosen]
        fate = generator.random(n_chosen)
        inputs_T[chosen[fate < 0.8]] = self.mask_id
        swapped = chosen[(fate >= 0.8) & (fate < 0.9)]
        inputs_T[swapped] = generator.choice(self._ordinary_ids, len(swapped))
        return inputs_T, labels_T

    @cached_property
    def _ordinary_ids(self) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(self.vocabulary), np.fromiter(self.special_ids, dtype=np.int64))
