"""Sample blocks of tokens from a text, made as in pre-training."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from attention_guidance.commands.text.blocks import Blocks, pack
from attention_guidance.commands.text.corpora import Document, corpus_name, read_documents
from attention_guidance.commands.text.embedded import embedded_documents
from attention_guidance.commands.text.pipes import save_pipes
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Text:
    """A text to run models on.

    Attributes:
        files: text files and folders (default: the text that comes with the package).
        text_field, documents, errors: how to read the files; see `RunConfig`.
    """

    files: Sequence[str] = ()
    text_field: str = "text"
    documents: str = "auto"
    errors: str = "strict"

    def __post_init__(self) -> None:
        # It may be read several times.
        object.__setattr__(self, "files", save_pipes(self.files))

    @property
    def name(self) -> str:
        """A short name of the text."""
        return corpus_name(self.files) if self.files else "World English Bible"

    def read(self) -> Iterator[Document]:
        """Yield the documents.

        Raises:
            CorpusError: the text cannot be read.
        """
        if not self.files:
            return embedded_documents()
        return read_documents(self.files, text_field=self.text_field, split=self.documents, errors=self.errors)


def sampled_blocks(
    text: Text, tokenizer: PreTrainedTokenizerBase, *, n_blocks: int, block_size: int, seed: int
) -> Blocks:
    """Sample blocks from a text.

    Samples documents while streaming over the corpus, then blocks from these documents: memory is limited to a few
    thousand documents, whatever the size of the corpus.

    Raises:
        CorpusError: the text cannot be read.
        ConfigError: there is nothing to sample, or blocks are too small for a token.
    """
    if n_blocks < 1:
        raise ConfigError(f"sequences={n_blocks} must be at least 1")
    generator = random.Random(seed)
    documents = _sampled(text.read(), max(1000, 20 * n_blocks), generator)
    blocks = pack((document.text for document in documents), tokenizer, block_size)
    if not len(blocks):
        raise ConfigError("the tokenizer finds no token in the text; give another text or tokenizer")
    kept = sorted(generator.sample(range(len(blocks)), min(n_blocks, len(blocks))))
    return replace(blocks, ids=blocks.ids[kept], lengths=blocks.lengths[kept])


def _sampled(documents: Iterable[Document], n_wanted: int, generator: random.Random) -> list[Document]:
    """Sample documents uniformly, keeping their order (reservoir sampling, Vitter's algorithm R)."""
    kept: list[tuple[int, Document]] = []
    for number, document in enumerate(documents):
        if len(kept) < n_wanted:
            kept.append((number, document))
        elif (place := generator.randrange(number + 1)) < n_wanted:
            kept[place] = number, document
    return [document for _, document in sorted(kept, key=lambda pair: pair[0])]


def batches(blocks: Blocks, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Yield the model's keyword arguments for each batch."""
    for start in range(0, len(blocks), batch_size):
        ids_BT = torch.from_numpy(blocks.ids[start : start + batch_size].astype(np.int64))
        lengths_B = torch.from_numpy(blocks.lengths[start : start + batch_size].astype(np.int64))
        mask_BT = (torch.arange(ids_BT.shape[1]) < lengths_B[:, None]).long()
        # Omit a mask that hides nothing: attention is faster without a mask.
        yield {"input_ids": ids_BT} | ({} if bool(mask_BT.all()) else {"attention_mask": mask_BT})
