"""Show text from outside, with characters escaped that control a terminal or the direction of text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Control characters, lone surrogates, unassigned code points, separators of lines and paragraphs.
_CATEGORIES = ("Cc", "Cs", "Cn", "Zl", "Zp")
_BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_LONGEST_TOKEN = 12


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """The text with each such character replaced by what `escape` returns for it."""
    odd = {c for c in set(text) if unicodedata.category(c) in _CATEGORIES or ord(c) in _BIDI_CONTROLS}
    return text.translate({ord(c): escape(c) for c in odd})


def visible(text: str) -> str:
    """Text for a figure: such characters are shown by their code point, a line break as an arrow."""
    return escaped(text, lambda character: "⏎" if character == "\n" else f"U+{ord(character):04X}")


def visible_token(token: str) -> str:
    """A token for a figure, without surrounding spaces; a token of spaces alone as their sign."""
    return visible(token.strip(" ") or "␣")


def short_token(token: str) -> str:
    """A token for a figure, at most 12 characters."""
    text = visible_token(token)
    return text if len(text) <= _LONGEST_TOKEN else text[: _LONGEST_TOKEN - 1] + "…"
