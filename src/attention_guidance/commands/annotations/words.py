"""Join annotated words into a text."""

from __future__ import annotations

from collections.abc import Sequence


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
