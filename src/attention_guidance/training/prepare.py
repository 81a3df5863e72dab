"""From a run's configuration to what it trains on: documents, tokenizer, blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.data.blocks import Blocks, one_per_line, pack, require_batch, split_validation
from attention_guidance.data.corpora import Document, corpus_name, read_documents
from attention_guidance.data.embedded import embedded_documents
from attention_guidance.data.tokenizers import load_tokenizer, suggest_vocab_size, train_tokenizer
from attention_guidance.errors import ConfigError, CorpusError
from attention_guidance.training.config import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The same documents are held out whatever the seed of training, so that runs of several seeds can be compared.
_SPLIT_SEED = 0


@dataclass(frozen=True)
class PreparedData:
    """What a run trains and validates on.

    Attributes:
        name: a short name of the corpus.
        tokenizer: given or trained.
        train, validation: the blocks.
        n_documents: documents trained on.
        sample: the beginning of the first validation document, for pictures.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    train: Blocks
    validation: Blocks
    n_documents: int
    sample: str

    @property
    def fingerprint(self) -> str:
        """A digest of all that is trained and validated on: equal data, equal digest."""
        digest = hashlib.sha256()
        for blocks in (self.train, self.validation):
            digest.update(blocks.ids.tobytes())
            digest.update(blocks.lengths.tobytes())
        return digest.hexdigest()


def prepare_data(config: RunConfig, say: Callable[[str], None], tokenizer_folder: Path | None = None) -> PreparedData:
    """Read the corpus, train or load the tokenizer, and lay the text out in blocks.

    Args:
        config: the run.
        say: told what is being done.
        tokenizer_folder: where the tokenizer is kept: taken from there if it is there (so that a resumed run has the
            one it began with), else the caller may save it there.

    Raises:
        CorpusError: text that cannot be read or does not suffice for one batch.
        ConfigError: a tokenizer that does not serve, a vocabulary larger than the text supports.
    """
    name = corpus_name(config.corpus) if config.corpus else "World English Bible"
    say(f"reading {name}")
    train, validation = _documents(config)
    tokenizer = _tokenizer(config, train, say, tokenizer_folder)
    say(f"packing {len(train):,} documents into blocks of {config.block_size} tokens")
    lay_out = one_per_line if config.line_by_line else pack
    train_blocks = lay_out((document.text for document in train), tokenizer, config.block_size)
    require_batch(train_blocks, config.batch_size, f"training text ({name})")
    validation_blocks = lay_out((document.text for document in validation), tokenizer, config.block_size)
    validation_blocks = _thinned(validation_blocks, max(1, config.max_validation_tokens // config.block_size))
    say(
        f"{train_blocks.n_tokens:,} tokens to train on, {validation_blocks.n_tokens:,} to validate on, "
        f"vocabulary of {len(tokenizer):,}"
    )
    return PreparedData(name, tokenizer, train_blocks, validation_blocks, len(train), validation[0].text[:2000])


def _thinned(blocks: Blocks, n_wanted: int) -> Blocks:
    """At most so many blocks, from all over the text."""
    kept = np.unique(np.linspace(0, len(blocks) - 1, n_wanted).round().astype(int))
    return replace(blocks, ids=blocks.ids[kept], lengths=blocks.lengths[kept])


def _documents(config: RunConfig) -> tuple[list[Document], list[Document]]:
    documents = list(_read(config, config.corpus) if config.corpus else embedded_documents())
    if config.validation:
        return documents, list(_read(config, config.validation))
    split = split_validation(documents, share=config.validation_share, seed=_SPLIT_SEED)
    return split.train, split.validation


def _read(config: RunConfig, paths: list[str]) -> Iterator[Document]:
    return read_documents(paths, text_field=config.text_field, split=config.documents, errors=config.errors)


def _tokenizer(
    config: RunConfig, documents: Iterable[Document], say: Callable[[str], None], folder: Path | None
) -> PreTrainedTokenizerBase:
    if folder is not None and folder.is_dir():
        return load_tokenizer(str(folder))
    if config.tokenizer is not None:
        if config.vocab_size is not None:
            raise ConfigError(
                f"vocab_size={config.vocab_size} is for training a tokenizer, but tokenizer={config.tokenizer!r} is "
                "given; leave one of them out"
            )
        return load_tokenizer(config.tokenizer)
    texts = [document.text for document in documents]
    size = config.vocab_size or suggest_vocab_size(sum(len(text.encode()) for text in texts))
    say(f"training a byte-level BPE tokenizer of {size:,} tokens")
    return train_tokenizer(texts, size, max_length=config.block_size, at_most=config.vocab_size is None)


def check_unchanged(data: PreparedData, fingerprint: str, folder: Path) -> None:
    """Make sure that a resumed run goes on with the text it began with.

    Raises:
        CorpusError: the text, read again, is not the same.
    """
    if data.fingerprint != fingerprint:
        raise CorpusError(
            f"the text of {data.name} has changed since the run in {folder} began, so it cannot go on exactly; "
            "give the text it began with, or another --output"
        )
