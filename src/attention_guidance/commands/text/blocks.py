"""Lay the tokens of documents out in blocks of equal length."""

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
_BATCH_CHARS = 1 << 20
_WRITTEN_BYTES = 1 << 24
_ROWS_AT_ONCE = 1024
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Blocks:
    """Token ids in rows of equal length.

    Attributes:
        ids: [N, block_size], uint16 where every id fits, else int32; padded on the right.
        lengths: [N], int32, tokens of each row that are not padding, special ones included.
        truncated: Number of texts that were cut to fit a row.
    """

    ids: npt.NDArray[np.integer]
    lengths: npt.NDArray[np.int32]
    truncated: int = 0

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[np.integer], int]:
        """Return the ids of a block [block_size] and how many are not padding."""
        return self.ids[index], int(self.lengths[index])

    @property
    def arrays(self) -> tuple[npt.NDArray[np.integer], ...]:
        """All that distinguishes these blocks from others."""
        return self.ids, self.lengths

    @property
    def width(self) -> int:
        """Positions of a block."""
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
    only_with: npt.NDArray[np.bool_] | None = None,
) -> Blocks:
    """Fill blocks without padding: RoBERTa's FULL-SENTENCES (Liu et al. 2019, section 4.2).

    A block is `<s> ... </s>` (`[CLS] ... [SEP]`); the texts inside follow each other with one `</s>` between two,
    and go on in the next block where one is full. A text that begins with its block has no `</s>` before it. What
    does not fill the last block is dropped, unless it is the only one, which is padded. Special tokens' names
    inside a text are encoded as ordinary text.

    Args:
        texts: One string a document.
        tokenizer: A fast tokenizer with pad, sep or eos, and cls or bos tokens.
        block_size: Tokens of a block, special ones included.
        file: Where the ids are written to, to be read from there as they are needed; else they stay in memory.
        only_with: For each id whether a block needs one such; blocks without are left out.

    Raises:
        ConfigError: `block_size` is under 3.
    """
    marks = _Marks.of(tokenizer, block_size)
    rows = _Rows(marks, block_size, file, only_with)
    room = block_size - 2
    # What stands inside of many blocks, one after the other: a row at a time costs a tenth of the tokenizer's time.
    inner = np.empty(_ROWS_AT_ONCE * room, marks.dtype)
    used = 0
    for ids in filter(len, _encode(texts, tokenizer, marks)):  # texts of no token are left out
        pieces = [ids] if used % room == 0 else [np.array([marks.end], marks.dtype), ids]
        for piece in pieces:
            start = 0
            while start < len(piece):
                n = min(len(inner) - used, len(piece) - start)
                inner[used : used + n] = piece[start : start + n]
                used, start = used + n, start + n
                if used == len(inner):
                    rows.add_full(inner)
                    used = 0
    whole = used - used % room
    rows.add_full(inner[:whole])
    if not rows.given and used:
        rows.add(inner[:used])
    return rows.blocks()


def one_per_line(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    block_size: int,
    *,
    file: Path | None = None,
    only_with: npt.NDArray[np.bool_] | None = None,
) -> Blocks:
    """Give each text a block of its own, `<s> text </s>`, cut to fit (counted in `truncated`) and padded.

    A text of no token, such as one of control characters that BERT's tokenizer removes, gets no block.

    Args:
        texts: One string a block.
        tokenizer: As for `pack`.
        block_size: Tokens of a block, special ones included.
        file: As for `pack`.
        only_with: As for `pack`.

    Raises:
        ConfigError: `block_size` is under 3.
    """
    marks = _Marks.of(tokenizer, block_size)
    rows = _Rows(marks, block_size, file, only_with)
    truncated = 0
    for ids in filter(len, _encode(texts, tokenizer, marks)):  # texts of no token are left out
        truncated += len(ids) > block_size - 2
        rows.add(ids[: block_size - 2])
    return rows.blocks(truncated)


def token_counts(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """How many tokens each text has, without special ones."""
    return [len(ids) for ids in _encode(texts, tokenizer, _Marks.of(tokenizer, 3))]


def require_batch(blocks: Blocks, batch_size: int, what: str) -> None:
    """Check that there are blocks for one batch.

    Args:
        blocks: What there is.
        batch_size: Blocks of a batch.
        what: What the blocks are for, such as `training`, for the message.

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
class _Marks:
    """The ids that frame a block, whether each id is special [vocabulary], and the type that holds every id."""

    start: int
    end: int
    pad: int
    unknown: int | None
    is_special: npt.NDArray[np.bool_]
    dtype: np.dtype[np.integer]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, block_size: int) -> "_Marks":
        if block_size < 3:
            raise ConfigError(f"block size {block_size}: must be at least 3, a token between two special ones")
        start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        pad, unknown = tokenizer.pad_token_id, tokenizer.unk_token_id
        if None in (start, end, pad):
            raise ConfigError("the tokenizer lacks one of the tokens blocks need: cls or bos, sep or eos, pad")
        # Not len(tokenizer): a vocabulary may have gaps.
        n_ids = 1 + max(tokenizer.get_vocab().values())
        dtype: np.dtype[np.integer] = np.dtype(np.uint16 if n_ids <= 1 << 16 else np.int32)
        is_special = np.zeros(n_ids, bool)
        is_special[[i for i in tokenizer.all_special_ids if i != unknown]] = True
        return cls(start, end, pad, unknown, is_special, dtype)


class _Rows:
    """Rows written one after the other into memory or a file, without a Python object per row or token."""

    def __init__(
        self,
        marks: _Marks,
        block_size: int,
        file: Path | None = None,
        only_with: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.marks = marks
        self.row = np.empty(block_size, marks.dtype)
        self.data = bytearray()
        self.lengths = array("i")
        self.given = 0
        self.only_with = only_with
        self.path = file
        self.file = None if file is None else file.open("wb")

    def add(self, inner: npt.NDArray[np.integer]) -> None:
        self.given += 1
        if self.only_with is not None and not self.only_with[inner].any():
            return
        n = len(inner)
        self.row[0], self.row[1 : n + 1], self.row[n + 1] = self.marks.start, inner, self.marks.end
        self.row[n + 2 :] = self.marks.pad
        self.data += self.row.tobytes()
        self.lengths.append(n + 2)
        self._write_what_is_long()

    def add_full(self, inner: npt.NDArray[np.integer]) -> None:
        """Add rows without padding, given what stands inside of them, one after the other."""
        inner = inner.reshape(-1, len(self.row) - 2)
        self.given += len(inner)
        if self.only_with is not None:
            inner = inner[self.only_with[inner].any(1)]
        rows = np.empty((len(inner), len(self.row)), self.marks.dtype)
        rows[:, 0], rows[:, 1:-1], rows[:, -1] = self.marks.start, inner, self.marks.end
        self.data += rows.tobytes()
        self.lengths.extend([len(self.row)] * len(rows))
        self._write_what_is_long()

    def _write_what_is_long(self) -> None:
        if self.file is not None and len(self.data) >= _WRITTEN_BYTES:
            self.file.write(self.data)
            self.data.clear()

    def blocks(self, truncated: int = 0) -> Blocks:
        lengths = np.array(self.lengths, np.int32)
        if self.file is None or self.path is None:
            ids = np.frombuffer(self.data, self.marks.dtype).reshape(-1, len(self.row))
            return Blocks(ids, lengths, truncated)
        with self.file:
            self.file.write(self.data)
        return Blocks(read_ids(self.path, self.marks.dtype, len(self.row)), lengths, truncated)


def read_ids(file: Path, dtype: npt.DTypeLike, block_size: int) -> npt.NDArray[np.integer]:
    """The ids that `pack` has written, read as they are needed."""
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
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, marks: _Marks
) -> Iterator[npt.NDArray[np.integer]]:
    """Yield the ids of each text, without special tokens."""
    # The tokenizer itself, as transformers' way around it takes half as long again.
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    literal = backend.encode_special_tokens

    encode = functools.partial(backend.encode_batch_fast, add_special_tokens=False)
    try:
        # Their names in a text are text.
        backend.encode_special_tokens = True
        # A batch is encoded, outside of Python, while the one before is laid out.
        for encodings in _one_ahead(encode, _batches(texts)):
            for encoding in encodings:
                yield _without_special(np.array(encoding.ids, marks.dtype), marks)
    finally:
        backend.encode_special_tokens = literal


def _one_ahead(function: Callable[[_Given], _Made], items: Iterable[_Given]) -> Iterator[_Made]:
    """What a function makes of each item, the next being made, on a thread, while one is used."""
    with ThreadPoolExecutor(1) as beside:
        before: Future[_Made] | None = None
        for item in items:
            now = beside.submit(function, item)
            if before is not None:
                yield before.result()
            before = now
        if before is not None:
            yield before.result()


def _without_special(ids: npt.NDArray[np.integer], marks: _Marks) -> npt.NDArray[np.integer]:
    """Put unk where the model itself spells a special token, as a Unigram vocabulary that lists `<mask>` does."""
    is_special = marks.is_special[ids]
    if not is_special.any():
        return ids
    if marks.unknown is None:
        raise ConfigError("the tokenizer reads a special token's name in a text as that token and has no unk token")
    return np.where(is_special, np.array(marks.unknown, marks.dtype), ids)
