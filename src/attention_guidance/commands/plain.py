"""Show text from outside in one line that is not too long, without secrets and characters that control a terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attention_guidance.commands.secrets import masked
from attention_guidance.printable import escaped

_MOST, _LONGEST = 12, 40


def plain(text: object) -> str:
    r"""The text in one line, without secrets, with characters escaped that control a terminal or the direction of text.

    Args:
        text: any text, or an object such as a path or an error. A character is escaped as in Python, `\n` and `\x1b`.
    """
    return escaped(masked(str(text)), lambda character: repr(character)[1:-1])


def listed(names: Sequence[str], show: Callable[[str], str] = str) -> str:
    """The first names of a list, the beginnings of long ones: a damaged table may have a book for a column name."""
    shown = [show(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in names[:_MOST]]
    return ", ".join([*shown, "..."] if len(names) > _MOST else shown)
