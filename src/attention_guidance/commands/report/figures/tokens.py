"""Format tokens for display: printable and short."""

from __future__ import annotations

from collections.abc import Sequence

from attention_guidance.commands.plain import plain

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
    return plain(text, lambda character: "⏎" if character == "\n" else f"U+{ord(character):04X}")
