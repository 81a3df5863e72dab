"""Show text from outside in one line that is not too long, without secrets and characters that control a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

from attention_guidance.commands.secrets import masked

# Control characters, lone surrogates, unassigned code points, separators of lines and paragraphs.
_CATEGORIES = ("Cc", "Cs", "Cn", "Zl", "Zp")
_BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}

_MOST, _LONGEST = 12, 40


def _escape(character: str) -> str:
    return repr(character)[1:-1]


def plain(text: object, escape: Callable[[str], str] = _escape) -> str:
    r"""The text in one line, without secrets, with characters escaped that control a terminal or the direction of text.

    Args:
        text: any text, or an object such as a path or an error.
        escape: shows a character (default: as in Python, `\n` and `\x1b`).
    """
    text = masked(str(text))
    odd = {c for c in set(text) if unicodedata.category(c) in _CATEGORIES or ord(c) in _BIDI_CONTROLS}
    return text.translate({ord(c): escape(c) for c in odd})


def listed(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """The first names of a list, the beginnings of long ones: a damaged table may have a book for a column name."""
    shown = [show(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in names[:_MOST]]
    return ", ".join([*shown, "..."] if len(names) > _MOST else shown)
