"""Prepare the text that a run trains on: read documents, train or load a tokenizer, pack blocks of tokens.

The documents are read again for each step (counting, validation split, training a tokenizer, packing), so that they are
never all in memory; the blocks of a large text are stored in files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypedDict

import numpy as np

from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.preparation.vocabulary import (
    given_tokenizer,
    inheritance,
    replaced_tokenizer,
    source_of_tokenizer,
)
from attention_guidance.commands.pretraining.saving.checkpoints import alone, damage, write_whole
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.reading.arrays import read_array
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.setting import NOT_NEGATIVE
from attention_guidance.commands.text.blocks import Blocks, one_per_line, pack, read_ids, require_batch, token_counts
from attention_guidance.commands.text.corpora import Document, corpus_name, read_documents
from attention_guidance.commands.text.embedded import embedded_documents
from attention_guidance.commands.text.folders import list_files
from attention_guidance.commands.text.holding_out import HeldOutText, hold_out, repeated_lines
from attention_guidance.commands.text.hub import HubDocuments
from attention_guidance.commands.tokenization.byte_level import (
    suggest_vocab_size,
    train_tokenizer,
    vocabulary_size,
)
from attention_guidance.commands.tokenization.coverage import misfits
from attention_guidance.errors import CorpusError, RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

# The validation split does not depend on the seed of training, so that runs with different seeds are comparable.
_SPLIT_SEED = 0
# Above the mean token length of any tokenizer.
_CHARACTERS_PER_TOKEN = 8
# With fewer tokens, the validation loss is mostly noise.
_ENOUGH_TOKENS = 2000
# For larger texts, blocks are stored in files.
_IN_MEMORY_BYTES = 1 << 28
# For larger texts, the tokenizer is trained on a sample.
_TOKENIZER_BYTES = 1 << 29
_CACHE = "ATTENTION_GUIDANCE_CACHE"


def prepare_text(config: RunConfig, say: Callable[[str], None], tokenizer_folder: Path | None) -> PreparedData:
    """Read text; the arguments and errors are those of `prepare_data`."""
    text = _Text(config)
    tokenizer = given_tokenizer(config, tokenizer_folder, say)
    replaced = replaced_tokenizer(config)
    if config.corpus and config.validation:
        # Raises an error if a file is in both.
        list_files([*config.corpus, *config.validation])
    say(f"reading {text.name}")
    held = text.hold_out()
    if tokenizer is None:
        tokenizer = _trained_tokenizer(config, text, held, say)
    elif source_of_tokenizer(config) is not None:
        for misfit in misfits(tokenizer, (document.text for document in text.documents())):
            say(misfit)
    inherited = None
    if replaced is not None:
        inherited = inheritance(str(config.init_from), replaced, tokenizer)
        say(str(inherited))
    held = _fitting(config, held, tokenizer)
    n_documents = text.measures.n_documents - held.n_whole
    say(f"packing {n_documents:,} documents into blocks of {config.block_size} tokens")
    what = f"training text ({text.name})"
    train = _train_blocks(config, text, held, tokenizer, say)
    _require_known(train, what)
    require_batch(train, config.batch_size, what)
    if train.truncated:
        say(f"{train.truncated:,} documents are longer than a block and were truncated")
    unseen = list(text.read(config.validation)) if config.validation else held.in_order
    # Text that is held out is chosen so that it does not recur.
    n_repeated, n_lines = repeated_lines(unseen, text.documents()) if config.validation else (0, 0)
    validation = _lay_out(config, (document.text for document in unseen), tokenizer)
    _require_known(validation, "validation text")
    validation = _thinned(validation, _validation_blocks(config))
    say(
        f"{train.n_tokens:,} tokens to train on, {validation.n_tokens:,} to validate on, "
        f"vocabulary of {len(tokenizer):,}"
    )
    if validation.n_tokens < _ENOUGH_TOKENS:
        say(
            f"note: {validation.n_tokens:,} tokens are few to validate on, so the validation loss is noisy; give more "
            "text, raise `validation_share` or `max_validation_tokens`, or give files as `validation`"
        )
    warnings = []
    if n_repeated:
        warnings.append(
            f"{n_repeated:,} of {n_lines:,} lines of the validation text are also in the training text, which lowers "
            "the validation loss"
        )
        say(f"note: {warnings[0]}")
    sample = unseen[0].text[:2000]
    return PreparedData(
        text.name,
        tokenizer,
        train,
        validation,
        n_documents,
        sample,
        n_repeated=n_repeated,
        warnings=tuple(warnings),
        inherited=inherited,
    )


@dataclass(frozen=True)
class _Measures:
    """The number of documents, characters and bytes of a text, and its digest."""

    n_documents: int
    n_chars: int
    n_bytes: int
    digest: str


class _Digest:
    """A digest of documents in their order."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.hexdigest = self._hash.hexdigest

    def add(self, text: str) -> int:
        """Add a document; returns its number of bytes."""
        encoded = text.encode()
        self._hash.update(encoded + b"\0")
        return len(encoded)


class _Text:
    """The documents of a run."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.name = corpus_name(config.corpus) if config.corpus else config.dataset or "World English Bible"

    def documents(self) -> Iterator[Document]:
        """Read all documents; see `_read`.

        Raises:
            CorpusError: Read to the end, the text is not the one that was measured.
        """
        digest = _Digest()
        for document in self._read():
            digest.add(document.text)
            yield document
        if digest.hexdigest() != self.measures.digest:
            raise CorpusError(
                f"the text of {self.name} changed while it was read; run the command again, and leave the text "
                "as it is until training begins"
            )

    def _read(self) -> Iterator[Document]:
        """Read all documents once: for each use again, since they do not fit into memory."""
        if self.config.corpus:
            return self.read(self.config.corpus)
        return iter(embedded_documents() if self._dataset is None else self._dataset)

    @cached_property
    def _dataset(self) -> HubDocuments | None:
        config = self.config
        if config.dataset is None:
            return None
        return HubDocuments(config.dataset, config.dataset_config, config.dataset_split, config.text_field)

    def read(self, paths: list[str]) -> Iterator[Document]:
        """Read the documents of files."""
        config = self.config
        return read_documents(paths, text_field=config.text_field, split=config.documents, errors=config.errors)

    @cached_property
    def measures(self) -> _Measures:
        """The measures of the text, which is read once for them."""
        n_documents, n_chars, n_bytes, digest = 0, 0, 0, _Digest()
        for document in self._read():
            n_documents += 1
            n_chars += len(document.text)
            n_bytes += digest.add(document.text)
        return _Measures(n_documents, n_chars, n_bytes, digest.hexdigest())

    def hold_out(self) -> HeldOutText:
        """Hold out text for validation, enough for any tokenizer; none if validation files are given."""
        if self.config.validation:
            return HeldOutText()
        enough = _CHARACTERS_PER_TOKEN * self.config.max_validation_tokens
        share = self.config.validation_share
        return hold_out(self.documents, self.measures.n_chars, share=share, seed=_SPLIT_SEED, at_most=enough)

    def to_train_on(self, held: HeldOutText) -> Iterator[tuple[int, str]]:
        """The training texts, with the numbers of their documents."""
        return ((number, document.text) for number, document in held.rest(self.documents()))


def _validation_blocks(config: RunConfig) -> int:
    return max(1, config.max_validation_tokens // config.block_size)


def _fitting(config: RunConfig, held: HeldOutText, tokenizer: PreTrainedTokenizerBase) -> HeldOutText:
    """Limit the held-out text to the maximum number of validation tokens; the rest is training text."""
    n_blocks = _validation_blocks(config)
    if config.line_by_line:
        return held.only(held.passages[:n_blocks])
    room = n_blocks * (config.block_size - 2)
    kept = []
    lengths = token_counts([passage.text for passage in held.passages], tokenizer)
    for passage, length in zip(held.passages, lengths, strict=True):
        # Plus a delimiter.
        if length + 1 <= room:
            kept.append(passage)
            room -= length + 1
    return held.only(kept or held.passages[:1])


def _trained_tokenizer(
    config: RunConfig, text: _Text, held: HeldOutText, say: Callable[[str], None]
) -> PreTrainedTokenizerBase:
    n_bytes = text.measures.n_bytes - sum(len(passage.text.encode()) for passage in held.passages)
    size = config.vocab_size or suggest_vocab_size(n_bytes)
    share = min(1.0, _TOKENIZER_BYTES / n_bytes)
    sample = "" if share == 1 else f" on {share:.0%} of the documents"
    say(f"training a byte-level BPE tokenizer of {size:,} tokens{sample}")
    texts = (document for number, document in text.to_train_on(held) if share == 1 or _drawn(number) < share)
    return train_tokenizer(texts, size, max_length=config.block_size, at_most=config.vocab_size is None, say=say)


def _drawn(number: int) -> float:
    """A pseudorandom number from 0 to 1 that depends only on the number of the document."""
    return int.from_bytes(hashlib.blake2b(f"tokenizer:{number}".encode(), digest_size=8).digest()) / 2**64


def _train_blocks(
    config: RunConfig,
    text: _Text,
    held: HeldOutText,
    tokenizer: PreTrainedTokenizerBase,
    say: Callable[[str], None],
) -> Blocks:
    texts = (document for _, document in text.to_train_on(held))
    if text.measures.n_bytes <= _IN_MEMORY_BYTES:
        return _lay_out(config, texts, tokenizer)

    def write(folder: Path) -> None:
        blocks = _lay_out(config, texts, tokenizer, folder / "ids")
        np.save(folder / "lengths.npy", blocks.lengths)
        facts = {"dtype": blocks.ids.dtype.name, "truncated": blocks.truncated}
        (folder / "blocks.json").write_text(json.dumps(facts), encoding="utf-8")

    folder = cache_folder() / _key(config, text, held, tokenizer) / "blocks"
    packed = _packed(folder, config.block_size, say)
    if packed is None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create {folder.parent} ({error.strerror}); set {_CACHE} to a folder") from error
        with alone(folder.parent, lambda: say("another process is packing this text; waiting for it")):
            # The other process may have packed it meanwhile.
            packed = _packed(folder, config.block_size, lambda note: None)
            if packed is None:
                write_whole(folder, write)
                say(f"the blocks are cached in {folder}")
                packed = _loaded(folder, config.block_size)
    return packed


class _Facts(TypedDict):
    """The content of `blocks.json`."""

    dtype: Literal["uint16", "int32"]
    truncated: Annotated[int, NOT_NEGATIVE]


def _packed(folder: Path, block_size: int, say: Callable[[str], None]) -> Blocks | None:
    """Load the blocks cached in a folder; None if there are none, or if a byte of them has changed."""
    if not folder.exists():
        return None
    try:
        if (problem := damage(folder)) is not None:
            raise ValueError(problem)
        blocks = _loaded(folder, block_size)
    except (OSError, ValueError) as error:
        say(f"the blocks in {folder} are damaged and will be packed again ({error})")
        return None
    say(f"using the packed blocks in {folder}")
    return blocks


def _loaded(folder: Path, block_size: int) -> Blocks:
    """Map the blocks in a folder.

    Raises:
        OSError, ValueError: a file is missing, or does not fit the others.
    """
    facts = read_json(folder / "blocks.json", _Facts)
    lengths = read_array(folder / "lengths.npy", np.integer)
    ids = read_ids(folder / "ids", facts["dtype"], block_size)
    if len(ids) != len(lengths):
        raise ValueError("rows are missing")
    return Blocks(ids, lengths, facts["truncated"])


def _lay_out(
    config: RunConfig, texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, file: Path | None = None
) -> Blocks:
    """Make blocks of texts, dropping those without a token to predict."""
    lay_out = one_per_line if config.line_by_line else pack
    return lay_out(texts, tokenizer, config.block_size, file=file, required=_ordinary(tokenizer))


def _ordinary(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """For each id, whether it is not a special token, [V]."""
    ordinary = np.ones(vocabulary_size(tokenizer), bool)
    ordinary[tokenizer.all_special_ids] = False
    return ordinary


def _require_known(blocks: Blocks, what: str) -> None:
    if not len(blocks):
        raise CorpusError(f"{what}: the tokenizer knows none of its words; give the tokenizer of this language")


def _thinned(blocks: Blocks, n_wanted: int) -> Blocks:
    """Keep at most `n_wanted` blocks, evenly spaced over the text."""
    kept = np.unique(np.linspace(0, len(blocks) - 1, n_wanted).round().astype(int))
    return replace(blocks, ids=blocks.ids[kept], lengths=blocks.lengths[kept])


def cache_folder() -> Path:
    """The folder in which the blocks of large texts are cached for later runs with the same text and tokenizer."""
    given = os.environ.get(_CACHE)
    system = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else system / "attention-guidance"


def _key(config: RunConfig, text: _Text, held: HeldOutText, tokenizer: PreTrainedTokenizerBase) -> str:
    """The cache key: a digest of everything that determines the blocks."""
    gaps = [(passage.document, passage.number) for passage in held.passages]
    parts = [text.measures.digest, tokenizer.backend_tokenizer.to_str(), config.block_size, config.line_by_line]
    parts += [held.longest, sorted(gaps), sorted(tokenizer.all_special_ids)]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
