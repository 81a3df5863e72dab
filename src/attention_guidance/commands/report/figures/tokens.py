"""Format tokens for display: printable, short, and without secrets."""

from __future__ import annotations

from collections.abc import Sequence

from attention_guidance.commands.secrets import masked
from attention_guidance.printable import short_token, visible, visible_token


def shown_tokens(tokens: Sequence[str]) -> list[str]:
    """Tokens shortened for figures."""
    return [shown_token(token) for token in tokens]


def shown_token(token: str) -> str:
    """One token in printable form, at most 12 characters."""
    return short_token(masked(token))


def whole_token(token: str) -> str:
    """One token in printable form, without surrounding spaces."""
    return visible_token(masked(token))


def printable(text: str) -> str:
    """Replace control and unassigned characters, and those that change the text direction, with their code point."""
    return visible(masked(text))
