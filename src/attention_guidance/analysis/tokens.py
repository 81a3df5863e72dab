"""Tokens as text, the words that they are parts of, and attention between words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    r"""Decode each token on its own to readable text.

    A leading space is shown as a space, however the vocabulary marks it; WordPiece's `##` prefix is kept. A token that
    is a part of a character is shown as bytes, such as `\xe4`.

    Args:
        tokenizer: The model's tokenizer. Tokens of one that is not fast are shown as they are in the vocabulary.
        ids: Ids of the tokens.
    """
    ids = [int(number) for number in ids]
    tokens: list[str] = tokenizer.convert_ids_to_tokens(ids)
    if not tokenizer.is_fast:
        return tokens
    decoder, added = tokenizer.backend_tokenizer.decoder, tokenizer.added_tokens_decoder
    texts = []
    for number, token in zip(ids, tokens, strict=True):
        # Added tokens are plain text, never in the byte-level alphabet.
        text = token if decoder is None or number in added else decoder.decode([token])
        texts.append(_from_bytes(token) if "\ufffd" in text and "\ufffd" not in token else text)
    return texts


def _from_bytes(token: str) -> str:
    """Undo GPT-2's mapping of bytes to printable characters, for a token that is not whole characters."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(rest)}
    return bytes(table[character] for character in token).decode("utf-8", "backslashreplace")


def words_of_text(text: str, special: Iterable[str]) -> list[Span]:
    """Start and end of each word: what is between spaces, with punctuation around it as words of its own.

    Args:
        text: The text.
        special: Special tokens, each of which is a word where it is written.
    """
    known = {token for token in special if token}
    longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    pieces = re.split(f"({longest_first})", text) if known else [text]
    spans, start = [], 0
    for piece in pieces:
        found = [(0, len(piece))] if piece in known else _words(piece)
        spans += [(start + begin, start + end) for begin, end in found]
        start += len(piece)
    return spans


def _words(text: str) -> Iterator[Span]:
    for found in re.finditer(r"\S+", text):
        start, end = found.span()
        marks = [unicodedata.category(character)[0] == "P" for character in found[0]]
        if all(marks):
            yield from ((place, place + 1) for place in range(start, end))
            continue
        first, last = start + marks.index(False), end - marks[::-1].index(False)
        yield from ((place, place + 1) for place in range(start, first))
        yield first, last
        yield from ((place, place + 1) for place in range(last, end))


def words_of_tokens(offsets: Sequence[Span], words: Sequence[Span]) -> npt.NDArray[np.int64]:
    """Find the word of each token, the one of its last character, as a token may start with a space; -1 for none.

    Args:
        offsets: Start and end of each token in the text, from a fast tokenizer.
        words: Start and end of each word, in order and without overlap.
    """
    starts = np.array([start for start, _ in words])
    ends = np.array([end for _, end in words])
    last = np.array([end for _, end in offsets]) - 1
    empty = np.array([end <= start for start, end in offsets])
    word = np.searchsorted(starts, last, side="right") - 1
    inside = ~empty & (word >= 0) & (last < ends[word.clip(min=0)])
    return np.where(inside, word, -1)


def between_words(map_TT: Tensor, tokens_TW: Tensor) -> Tensor:
    """Attention between words: to a word the sum over its tokens, from a word the mean over them (Clark et al. 2019).

    Args:
        map_TT: Attention between tokens, [..., T, T].
        tokens_TW: 1 where a token is a part of a word, else 0, [..., T, W]; leading dimensions are broadcast.

    Returns:
        [..., W, W]. A row of a word without tokens is 0.
    """
    means_WT = (tokens_TW / tokens_TW.sum(-2, keepdim=True).clamp(min=1)).mT
    return means_WT @ map_TT @ tokens_TW
