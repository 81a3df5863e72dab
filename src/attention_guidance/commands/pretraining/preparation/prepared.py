"""What a run trains and validates on."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from attention_guidance.commands.objectives.base import Items
from attention_guidance.errors import CorpusError

# Rows that are looked at in one go.
_ROWS = 1 << 16


class HeldItems(Items, Protocol):
    """Items as a run keeps them."""

    @property
    def arrays(self) -> tuple[np.ndarray[Any, Any], ...]:
        """All that distinguishes them from others."""

    @property
    def width(self) -> int:
        """Positions of one."""

    @property
    def n_tokens(self) -> int:
        """Positions of all, without padding."""


@dataclass(frozen=True)
class PreparedData:
    """What a run trains and validates on.

    Attributes:
        name: a short name of the corpus.
        processor: makes the model's inputs of text (a tokenizer, given or trained), images or sound.
        train, validation: blocks of tokens, images or stretches of sound.
        n_documents: documents, images or stretches trained on.
        sample: the beginning of the first validation document, for pictures; empty where there is no text.
    """

    name: str
    processor: Any
    train: HeldItems
    validation: HeldItems
    n_documents: int
    sample: str

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer, where there is text."""
        return self.processor if isinstance(self.processor, PreTrainedTokenizerBase) else None

    @property
    def fingerprint(self) -> str:
        """A digest of all that is trained and validated on: equal data, equal digest."""
        digest = hashlib.sha256()
        for items in (self.train, self.validation):
            for array in items.arrays:
                for start in range(0, len(array), _ROWS):
                    digest.update(np.ascontiguousarray(array[start : start + _ROWS]).data)
                    if isinstance(array, np.memmap):
                        # What has been read of a file would count as held.
                        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return digest.hexdigest()


def check_unchanged(data: PreparedData, fingerprint: str, folder: Path) -> None:
    """Make sure that a resumed run goes on with the text it began with.

    Raises:
        CorpusError: the text, read again, is not the same.
    """
    if data.fingerprint != fingerprint:
        raise CorpusError(
            f"the text of {data.name} has changed since the run in {folder} began, so it cannot go on exactly; "
            "give the text it began with, or another `output`"
        )
