"""From a run's configuration to what it trains on: documents, tokenizer, blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.data.blocks import Blocks, one_per_line, pack, require_batch, split_validation
from attention_guidance.data.corpora import Document, corpus_name, read_documents
from attention_guidance.data.embedded import embedded_documents
from attention_guidance.data.tokenizers import (
    load_tokenizer,
    suggest_vocab_size,
    train_tokenizer,
    vocabulary_size,
)
from attention_guidance.errors import CorpusError
from attention_guidance.training.config import RunConfig
from attention_guidance.training.prepare_media import prepare_images, prepare_sound
from attention_guidance.training.prepared import PreparedData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The same documents are held out whatever the seed of training, so that runs of several seeds can be compared.
_SPLIT_SEED = 0


def prepare_data(config: RunConfig, say: Callable[[str], None], processor_folder: Path | None = None) -> PreparedData:
    """Read what a run trains on: text in blocks of tokens, images, or stretches of sound.

    Args:
        config: the run.
        say: told what is being done.
        processor_folder: where the tokenizer is kept: taken from there if it is there (so that a resumed run has the
            one it began with), else the caller may save it there.

    Raises:
        CorpusError: files that cannot be read or do not suffice for one batch.
        ConfigError: a tokenizer that does not serve, a vocabulary larger than the text supports.
    """
    if config.objective == "mim":
        return prepare_images(config, say)
    if config.objective == "speech":
        return prepare_sound(config, say)
    return _prepare_text(config, say, processor_folder)


def _prepare_text(config: RunConfig, say: Callable[[str], None], tokenizer_folder: Path | None) -> PreparedData:
    name = corpus_name(config.corpus) if config.corpus else "World English Bible"
    tokenizer = _given_tokenizer(config, tokenizer_folder)
    say(f"reading {name}")
    train, validation = _documents(config)
    if tokenizer is None:
        tokenizer = _trained_tokenizer(config, train, say)
    say(f"packing {len(train):,} documents into blocks of {config.block_size} tokens")
    train_blocks = _laid_out(train, config, tokenizer, f"training text ({name})")
    require_batch(train_blocks, config.batch_size, f"training text ({name})")
    if train_blocks.truncated:
        say(f"{train_blocks.truncated:,} documents are longer than a block and lose their end")
    validation_blocks = _thinned(
        _laid_out(validation, config, tokenizer, "validation text"),
        max(1, config.max_validation_tokens // config.block_size),
    )
    say(
        f"{train_blocks.n_tokens:,} tokens to train on, {validation_blocks.n_tokens:,} to validate on, "
        f"vocabulary of {len(tokenizer):,}"
    )
    return PreparedData(name, tokenizer, train_blocks, validation_blocks, len(train), validation[0].text[:2000])


def _laid_out(documents: list[Document], config: RunConfig, tokenizer: PreTrainedTokenizerBase, what: str) -> Blocks:
    """The blocks of some documents, without those in which no token can be predicted."""
    lay_out = one_per_line if config.line_by_line else pack
    blocks = lay_out((document.text for document in documents), tokenizer, config.block_size)
    is_ordinary = np.ones(vocabulary_size(tokenizer), bool)
    is_ordinary[tokenizer.all_special_ids] = False
    kept = np.fromiter((is_ordinary[ids_T].any() for ids_T in blocks.ids), bool, len(blocks))
    if not kept.any():
        raise CorpusError(f"{what}: the tokenizer knows none of its words; give the tokenizer of this language")
    return blocks if kept.all() else replace(blocks, ids=blocks.ids[kept], lengths=blocks.lengths[kept])


def _thinned(blocks: Blocks, n_wanted: int) -> Blocks:
    """At most so many blocks, from all over the text."""
    kept = np.unique(np.linspace(0, len(blocks) - 1, n_wanted).round().astype(int))
    return replace(blocks, ids=blocks.ids[kept], lengths=blocks.lengths[kept])


def _documents(config: RunConfig) -> tuple[list[Document], list[Document]]:
    documents = list(_read(config, config.corpus) if config.corpus else embedded_documents())
    if config.validation:
        return documents, list(_read(config, config.validation))
    split = split_validation(documents, share=config.validation_share, seed=_SPLIT_SEED)
    # A text that is trained on tells nothing about text never seen.
    trained_on = {document.text for document in split.train}
    unseen = [document for document in split.validation if document.text not in trained_on]
    if not unseen:
        raise CorpusError(
            f"all {len(split.validation)} documents chosen for validation stand in the training text word for word; "
            "raise --validation-share, or give another --validation file"
        )
    return split.train, unseen


def _read(config: RunConfig, paths: list[str]) -> Iterator[Document]:
    return read_documents(paths, text_field=config.text_field, split=config.documents, errors=config.errors)


def _given_tokenizer(config: RunConfig, folder: Path | None) -> PreTrainedTokenizerBase | None:
    if folder is not None and folder.is_dir():
        return load_tokenizer(str(folder))
    given = config.tokenizer or config.init_from
    return None if given is None else load_tokenizer(given)


def _trained_tokenizer(
    config: RunConfig, documents: list[Document], say: Callable[[str], None]
) -> PreTrainedTokenizerBase:
    texts = [document.text for document in documents]
    size = config.vocab_size or suggest_vocab_size(sum(len(text.encode()) for text in texts))
    say(f"training a byte-level BPE tokenizer of {size:,} tokens")
    return train_tokenizer(texts, size, max_length=config.block_size, at_most=config.vocab_size is None)
