"""A pattern drawn as text: a row for every query, its targets marked under the sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from attention_guidance.patterns.base import Pattern, Sequences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TARGET, _OTHER = "#", "."


def describe(pattern: Pattern, text: str | Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """Draw a pattern on a sentence.

    Args:
        pattern: the pattern.
        text: a sentence, split by the tokenizer or, without one, at spaces; or its tokens (those of the tokenizer).
        tokenizer: also tells a token class its members.

    Returns:
        Lines of text: the name, then for each query its token, a row of marks (`#` a target, `.` none) and the targets.

    Raises:
        PatternError: the pattern looks at token ids and there is no tokenizer.

    Example::

        >>> print(get_pattern("next").describe("the cat sat"))
        next: 2 of 3 queries have a target
        the  . # .  -> cat
        cat  . . #  -> sat
        sat  . . .
    """
    input_ids_BT = None
    if tokenizer is not None:
        ids = tokenizer(text)["input_ids"] if isinstance(text, str) else tokenizer.convert_tokens_to_ids(list(text))
        input_ids_BT = torch.tensor([ids])
        tokens = [
            tokenizer.convert_tokens_to_string([token]).strip() or token
            for token in tokenizer.convert_ids_to_tokens(ids)
        ]
    else:
        tokens = text.split() if isinstance(text, str) else list(text)
    size = (1, len(tokens))
    targets_QK = pattern.targets(Sequences(torch.ones(size, dtype=torch.bool), input_ids_BT)).dense()[0]
    rows: list[list[bool]] = targets_QK.expand(len(tokens), len(tokens)).tolist()
    width = max(map(len, tokens), default=0)
    lines = [f"{pattern.name}: {sum(map(any, rows))} of {len(tokens)} queries have a target"]
    for token, row in zip(tokens, rows, strict=True):
        marks = " ".join(_TARGET if hit else _OTHER for hit in row)
        found = [key for key, hit in zip(tokens, row, strict=True) if hit]
        lines.append(f"{token:<{width}}  {marks}{'  -> ' + ' '.join(found) if found else ''}")
    return "\n".join(lines)
