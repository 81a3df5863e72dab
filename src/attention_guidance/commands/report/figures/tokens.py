"""Format tokens for display: printable and short."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_LONGEST_TOKEN = 12


def shown_tokens(tokens: Sequence[str]) -> list[str]:
    """Tokens shortened for figures."""
    return [shown_token(token) for token in tokens]


def shown_token(token: str) -> str:
    """One token in printable form, at most 12 characters."""
    text = whole_token(token)
    return text if len(text) <= _LONGEST_TOKEN else text[: _LONGEST_TOKEN - 1] + "…"


def whole_token(token: str) -> str:
    """One token in printable form, without surrounding spaces."""
    return printable(token.strip(" ") or "␣")


def printable(text: str) -> str:
    """Replace control and unassigned characters, and those that change the text direction, with their code point."""
    odd = [c for c in set(text) if unicodedata.category(c) in ("Cc", "Cs", "Cn") or ord(c) in _BIDI_CONTROLS]
    return text.translate({ord(c): "⏎" if c == "\n" else f"U+{ord(c):04X}" for c in odd})
