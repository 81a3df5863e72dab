"""Draw a pattern's targets as text: one row of marks per query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TARGET, _OTHER = "#", "."


def tokens_and_ids(
    text: str | Sequence[str], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[str], list[int] | None]:
    """The tokens of a sentence in readable form, and their ids if there is a tokenizer.

    Args:
        text: a sentence, which is split by the tokenizer (default: at whitespace); or a list of tokens.
        tokenizer: may be None.
    """
    if tokenizer is None:
        return (text.split() if isinstance(text, str) else list(text)), None
    ids = tokenizer(text)["input_ids"] if isinstance(text, str) else tokenizer.convert_tokens_to_ids(list(text))
    tokens = [
        tokenizer.convert_tokens_to_string([token]).strip() or token for token in tokenizer.convert_ids_to_tokens(ids)
    ]
    return tokens, ids


def draw(name: str, targets: Sequence[Sequence[bool]], tokens: Sequence[str]) -> str:
    """Draw targets as lines of text.

    Args:
        name: name of the pattern.
        targets: [Q, K], whether a key is a target of a query.
        tokens: [Q], the tokens, both as queries and as keys.
    """
    width = max(map(len, tokens), default=0)
    lines = [f"{name}: {sum(map(any, targets))} of {len(tokens)} queries have a target"]
    for token, row in zip(tokens, targets, strict=True):
        marks = " ".join(_TARGET if hit else _OTHER for hit in row)
        found = [key for key, hit in zip(tokens, row, strict=True) if hit]
        lines.append(f"{token:<{width}}  {marks}{'  -> ' + ' '.join(found) if found else ''}")
    return "\n".join(lines)
