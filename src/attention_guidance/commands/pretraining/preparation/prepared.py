"""Prepared training and validation data."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from attention_guidance.commands.objectives.base import Items
from attention_guidance.commands.pretraining.preparation.vocabulary import Inheritance
from attention_guidance.errors import CorpusError

# Rows to hash at a time.
_ROWS = 1 << 16


class HeldItems(Items, Protocol):
    """Items with the properties that a run needs."""

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """The arrays that determine the items."""

    @property
    def width(self) -> int:
        """Number of positions of an item."""

    @property
    def n_tokens(self) -> int:
        """Number of positions of all items, without padding."""


@dataclass(frozen=True)
class PreparedData:
    """The training and validation data of a run.

    Attributes:
        name: Short name of the corpus.
        processor: Converts text (a tokenizer, given or trained), images or audio to inputs of the model.
        train, validation: Blocks of tokens, images or audio segments.
        n_documents: Number of documents, images or segments in the training data.
        sample: Start of the first validation document, for figures; empty for other data than text.
        n_repeated: Number of lines of given validation text that are in the training text too.
        warnings: What makes the results less than they look.
        inherited: What the tokens begin as, if they replace those of a trained model.
    """

    name: str
    processor: Any
    train: HeldItems
    validation: HeldItems
    n_documents: int
    sample: str
    n_repeated: int = 0
    warnings: tuple[str, ...] = ()
    inherited: Inheritance | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer; None for other data than text."""
        return self.processor if isinstance(self.processor, PreTrainedTokenizerBase) else None

    @property
    def fingerprint(self) -> str:
        """A SHA-256 digest of the training and validation data."""
        digest = hashlib.sha256()
        for items in (self.train, self.validation):
            for array in items.arrays:
                for start in range(0, len(array), _ROWS):
                    digest.update(np.ascontiguousarray(array[start : start + _ROWS]).data)
                    if isinstance(array, np.memmap):
                        # Otherwise the pages read would count as memory of the process.
                        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return digest.hexdigest()


def check_unchanged(data: PreparedData, fingerprint: str, folder: Path) -> None:
    """Check that a resumed run has the same data as before.

    Raises:
        CorpusError: The data differ.
    """
    if data.fingerprint != fingerprint:
        raise CorpusError(
            f"the text of {data.name} has changed since the run in {folder} started, so the run cannot be resumed "
            "exactly; give the original text, or another `output`"
        )
