"""Tokenize documents and pack them into blocks of equal length."""

import functools
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from attention_guidance.errors import ConfigError, CorpusError

_BATCH_TEXTS = 1024
_BATCH_CHARS = 1 << 19
_FLUSH_BYTES = 1 << 24
_ROWS_PER_BUFFER = 1024
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Blocks:
    """Token ids in rows of equal length.

    Attributes:
        ids: [N, block_size], uint16 if every id fits, else int32; padded on the right.
        lengths: [N], int32, number of tokens in each row, including special tokens but not padding.
        truncated: Number of texts that were truncated to fit a row.
    """

    ids: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int32]
    truncated: int = 0

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.integer], int]:
        """Return the ids of a block [block_size] and the number of them that are not padding."""
        return self.ids[index], int(self.lengths[index])

    @property
    def arrays(self) -> tuple[npt.NDArray[np.integer], ...]:
        """The arrays that determine the blocks; their digest identifies the data set."""
        return self.ids, self.lengths

    @property
    def width(self) -> int:
        """Number of positions in a block."""
        return int(self.ids.shape[1])

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are not padding."""
        return int(self.lengths.sum(dtype=np.int64))


def pack(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    file: Path | None = None,
    required: npt.NDArray[np.bool_] | None = None,
) -> Blocks:
    """Pack texts into blocks without padding, as RoBERTa's FULL-SENTENCES (Liu et al. 2019, section 4.2).

    A block is `<s> ... </s>` (`[CLS] ... [SEP]`). The texts in it are separated by one `</s>`; a text that does not
    fit continues in the next block. No separator precedes a text that starts its block. An incomplete last block is
    dropped, unless it is the only one, which is padded. Names of special tokens in a text are ordinary text.

    Args:
        texts: One string per document.
        tokenizer: A fast tokenizer with pad, sep or eos, and cls or bos tokens.
        block_size: Tokens per block, including special tokens.
        file: File to write the ids to; they are then memory-mapped (default: keep them in memory).
        required: [vocabulary], keep only blocks with at least one of the ids for which this is true (default: all).

    Raises:
        ConfigError: `block_size` is under 3.
    """
    special = _SpecialIds.of(tokenizer, block_size)
    rows = _Rows(special, block_size, file, required)
    capacity = block_size - 2
    # Contents of many blocks in a row: adding one block at a time would cost a tenth of the tokenizer's time.
    tokens = np.empty(_ROWS_PER_BUFFER * capacity, special.dtype)
    used = 0
    for ids in filter(len, _encode(texts, tokenizer, special)):  # texts without tokens are skipped
        pieces = [ids] if used % capacity == 0 else [np.array([special.end], special.dtype), ids]
        for piece in pieces:
            start = 0
            while start < len(piece):
                n = min(len(tokens) - used, len(piece) - start)
                tokens[used : used + n] = piece[start : start + n]
                used, start = used + n, start + n
                if used == len(tokens):
                    rows.add_full(tokens)
                    used = 0
    whole = used - used % capacity
    rows.add_full(tokens[:whole])
    if not rows.n_seen and used:
        rows.add(tokens[:used])
    return rows.blocks()


def one_per_line(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    file: Path | None = None,
    required: npt.NDArray[np.bool_] | None = None,
) -> Blocks:
    """Put each text in its own block, `<s> text </s>`, truncated (counted in `truncated`) or padded.

    A text without tokens, such as control characters that BERT's tokenizer removes, gets no block.

    Args:
        texts: One string per block.
        tokenizer: As for `pack`.
        block_size: Tokens per block, including special tokens.
        file: As for `pack`.
        required: As for `pack`.

    Raises:
        ConfigError: `block_size` is under 3.
    """
    special = _SpecialIds.of(tokenizer, block_size)
    rows = _Rows(special, block_size, file, required)
    truncated = 0
    for ids in filter(len, _encode(texts, tokenizer, special)):  # texts without tokens are skipped
        truncated += len(ids) > block_size - 2
        rows.add(ids[: block_size - 2])
    return rows.blocks(truncated)


def token_counts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Number of tokens in each text, without special tokens."""
    return [len(ids) for ids in _encode(texts, tokenizer, _SpecialIds.of(tokenizer, 3))]


def require_batch(blocks: Blocks, batch_size: int, what: str) -> None:
    """Check that there are enough blocks for one batch.

    Args:
        blocks: The blocks available.
        batch_size: Blocks per batch.
        what: The use of the blocks, such as `training`, for the error message.

    Raises:
        CorpusError: There are fewer blocks than `batch_size`.
    """
    if len(blocks) >= batch_size:
        return
    block_size = blocks.ids.shape[1]
    raise CorpusError(
        f"too little text for {what}: {blocks.n_tokens} tokens in {len(blocks)} blocks of {block_size}, one batch "
        f"of {batch_size} needs {batch_size * block_size} tokens; lower `batch_size` or `block_size`, or give more text"
    )


@dataclass(frozen=True)
class _SpecialIds:
    """Ids of the special tokens that blocks use, a mask of all special ids [vocabulary], and the dtype for ids."""

    start: int
    end: int
    pad: int
    unknown: int | None
    is_special: npt.NDArray[np.bool_]
    dtype: np.dtype[np.integer]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, block_size: int) -> "_SpecialIds":
        if block_size < 3:
            raise ConfigError(f"block size {block_size}: must be at least 3, for one token between two special tokens")
        start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        pad, unknown = tokenizer.pad_token_id, tokenizer.unk_token_id
        if None in (start, end, pad):
            raise ConfigError("the tokenizer lacks a special token that blocks need: cls or bos, sep or eos, pad")
        # Not len(tokenizer): a vocabulary may have gaps.
        n_ids = 1 + max(tokenizer.get_vocab().values())
        dtype: np.dtype[np.integer] = np.dtype(np.uint16 if n_ids <= 1 << 16 else np.int32)
        is_special = np.zeros(n_ids, bool)
        is_special[[i for i in tokenizer.all_special_ids if i != unknown]] = True
        return cls(start, end, pad, unknown, is_special, dtype)


class _Rows:
    """Append rows to a buffer in memory or to a file, without a Python object per row or token."""

    def __init__(
        self,
        special: _SpecialIds,
        block_size: int,
        file: Path | None = None,
        required: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.special = special
        self.row = np.empty(block_size, special.dtype)
        self.data = bytearray()
        self.lengths = array("i")
        self.n_seen = 0
        self.required = required
        self.path = file
        self.file = None if file is None else file.open("wb")

    def add(self, tokens: npt.NDArray[np.integer]) -> None:
        self.n_seen += 1
        if self.required is not None and not self.required[tokens].any():
            return
        n = len(tokens)
        self.row[0], self.row[1 : n + 1], self.row[n + 1] = self.special.start, tokens, self.special.end
        self.row[n + 2 :] = self.special.pad
        self.data += self.row.tobytes()
        self.lengths.append(n + 2)
        self._flush_if_large()

    def add_full(self, tokens: npt.NDArray[np.integer]) -> None:
        """Add rows that need no padding, given their concatenated contents without special tokens."""
        tokens = tokens.reshape(-1, len(self.row) - 2)
        self.n_seen += len(tokens)
        if self.required is not None:
            tokens = tokens[self.required[tokens].any(1)]
        rows = np.empty((len(tokens), len(self.row)), self.special.dtype)
        rows[:, 0], rows[:, 1:-1], rows[:, -1] = self.special.start, tokens, self.special.end
        self.data += rows.tobytes()
        self.lengths.extend([len(self.row)] * len(rows))
        self._flush_if_large()

    def _flush_if_large(self) -> None:
        if self.file is not None and len(self.data) >= _FLUSH_BYTES:
            self.file.write(self.data)
            self.data.clear()

    def blocks(self, truncated: int = 0) -> Blocks:
        lengths = np.array(self.lengths, np.int32)
        if self.file is None or self.path is None:
            ids = np.frombuffer(self.data, self.special.dtype).reshape(-1, len(self.row))
            return Blocks(ids, lengths, truncated)
        with self.file:
            self.file.write(self.data)
        return Blocks(read_ids(self.path, self.special.dtype, len(self.row)), lengths, truncated)


def read_ids(file: Path, dtype: npt.DTypeLike, block_size: int) -> npt.NDArray[np.integer]:
    """Memory-map the ids that `pack` wrote to a file."""
    if not file.stat().st_size:
        return np.empty((0, block_size), dtype)
    ids: npt.NDArray[np.integer] = np.memmap(file, dtype, "r").reshape(-1, block_size)
    return ids


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    n_chars = 0
    for text in texts:
        batch.append(text)
        n_chars += len(text)
        if len(batch) >= _BATCH_TEXTS or n_chars >= _BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _encode(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, special: _SpecialIds
) -> Iterator[npt.NDArray[np.integer]]:
    """Yield the ids of each text, without special tokens."""
    # The backend tokenizer: the wrapper of transformers takes 1.5 times as long.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    literal = backend.encode_special_tokens

    encode = functools.partial(backend.encode_batch_fast, add_special_tokens=False)
    try:
        # Names of special tokens in a text are ordinary text.
        backend.encode_special_tokens = True
        # The next batch is encoded, in native code, while this one is packed.
        for encodings in _prefetch(encode, _batches(texts)):
            for encoding in encodings:
                yield _replace_special(np.array(encoding.ids, special.dtype), special)
    finally:
        backend.encode_special_tokens = literal


def _prefetch(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Map a function over items, computing the next result on a thread while the current one is used."""
    with ThreadPoolExecutor(1) as executor:
        previous: Future[_Result] | None = None
        for item in items:
            current = executor.submit(function, item)
            if previous is not None:
                yield previous.result()
            previous = current
        if previous is not None:
            yield previous.result()


def _replace_special(ids: npt.NDArray[np.integer], special: _SpecialIds) -> npt.NDArray[np.integer]:
    """Replace special ids that come from text by unk, as a Unigram vocabulary that lists `<mask>` produces them."""
    is_special = special.is_special[ids]
    if not is_special.any():
        return ids
    if special.unknown is None:
        raise ConfigError("the tokenizer encodes names of special tokens as those tokens, and has no unk token")
    return np.where(is_special, np.array(special.unknown, special.dtype), ids)
