"""Texts that are annotated word by word: putting words together, and finding them again in tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def joined(words: Sequence[str], glued: Sequence[bool] = ()) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text of words, and where each of them is in it.

    Args:
        words: the words.
        glued: whether each word is followed by the next without a space; never by default.
    """
    text, spans = "", []
    for number, word in enumerate(words):
        spans.append((len(text), len(text) + len(word)))
        text += word if number < len(glued) and glued[number] else word + " "
    return text.rstrip(" "), tuple(spans)


def words_of_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """The word of each token: the one that its last character is in, as a token may begin with a space; -1 for none.

    Args:
        offsets: where each token begins and ends in the text, as a fast tokenizer tells.
        words: the same of the words; in order, without overlap.
    """
    starts = np.array([start for start, _ in words])
    ends = np.array([end for _, end in words])
    last = np.array([end for _, end in offsets]) - 1
    empty = np.array([end <= start for start, end in offsets])
    word = np.searchsorted(starts, last, side="right") - 1
    inside = ~empty & (word >= 0) & (last < ends[word.clip(min=0)])
    return np.where(inside, word, -1)
