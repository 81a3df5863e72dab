"""Join annotated words into a text, and align its tokens with the words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def join_words(words: Sequence[str], no_space_after: Sequence[bool] = ()) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Join words into a text; return it with the start and end of each word.

    Args:
        words: The words.
        no_space_after: Whether the next word follows without a space, for each word (default: never).
    """
    text, spans = "", []
    for number, word in enumerate(words):
        spans.append((len(text), len(text) + len(word)))
        text += word if number < len(no_space_after) and no_space_after[number] else word + " "
    return text.rstrip(" "), tuple(spans)


def words_of_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
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
