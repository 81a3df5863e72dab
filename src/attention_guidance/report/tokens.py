"""Tokens as people read them, safe to print anywhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_BIDI_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_LONGEST_TOKEN = 12


def shown_tokens(tokens: Sequence[str]) -> list[str]:
    """Tokens as people read them; a byte-level vocabulary (seen by its Ġ) is turned back into text."""
    byte_level = any("Ġ" in token for token in tokens)
    return [shown_token(_from_bytes(token) if byte_level else token) for token in tokens]


def shown_token(token: str) -> str:
    """One token: without the mark of a leading space, printable, at most 12 characters."""
    text = printable(token.removeprefix("▁").strip(" ") or "␣")
    return text if len(text) <= _LONGEST_TOKEN else text[: _LONGEST_TOKEN - 1] + "…"


def printable(text: str) -> str:
    """Characters that XML forbids, or that would turn the text after them around, become their number."""
    odd = [c for c in set(text) if unicodedata.category(c) in ("Cc", "Cs", "Cn") or ord(c) in _BIDI_CONTROLS]
    return text.translate({ord(c): "⏎" if c == "\n" else f"U+{ord(c):04X}" for c in odd})


def _from_bytes(token: str) -> str:
    """Undo GPT-2's printable stand-ins for bytes; a token that is no whole character shows its bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(rest)}
    if not all(character in table for character in token):
        return token
    return bytes(table[character] for character in token).decode("utf-8", "backslashreplace")
