"""Convert user inputs (text, token ids, batches) to model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from attention_guidance.errors import ConfigError
from attention_guidance.patterns import Pattern, TokenClasses, checked_pattern, get_pattern

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = Mapping[str, Any] | Tensor | np.ndarray[Any, Any] | Sequence[int] | str
"""A mapping of the model's arguments by name; token ids, [T] or [B, T]; or a text, which requires a tokenizer."""

_WANTED = "give a mapping of the model's arguments such as {'input_ids': ...}, token ids, or a text with tokenizer="


def batches_of(given: Iterable[Batch] | Batch, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[dict[str, Any]]:
    """Yield the model's keyword arguments for each batch.

    Args:
        given: one batch, or an iterable of batches.
        tokenizer: the model's tokenizer, required for texts.

    Raises:
        ConfigError: an invalid batch.
    """
    single = isinstance(given, Mapping | Tensor | np.ndarray | str) or _is_ids(given)
    if not single and not isinstance(given, Iterable):
        raise ConfigError(f"batches is a {type(given).__name__}; {_WANTED}, or an iterable of these")
    for batch in [given] if single else given:  # type: ignore[union-attr, list-item]
        yield batch_of(batch, tokenizer)  # type: ignore[arg-type]


def batch_of(given: Batch, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """The model's keyword arguments for one batch.

    Raises:
        ConfigError: an invalid batch.
    """
    if isinstance(given, Mapping):
        return {name: _tensor(name, value) for name, value in given.items()}
    if isinstance(given, str):
        if tokenizer is None:
            raise ConfigError(f"{given[:40]!r} is a text; pass the model's tokenizer as tokenizer= too")
        check_unicode("text", given)
        encoded = tokenizer(given, return_tensors="pt", split_special_tokens=True, verbose=False)
        n_tokens, most = encoded["input_ids"].shape[1], tokenizer.model_max_length
        if n_tokens > most:
            raise ConfigError(f"{given[:40]!r} has {n_tokens} tokens and the model takes {most}; split the text")
        return {name: value for name, value in encoded.items() if name != "attention_mask"}
    ids = torch.as_tensor(given) if isinstance(given, Tensor | np.ndarray) or _is_ids(given) else None
    if ids is None or ids.is_floating_point() or ids.dtype == torch.bool or ids.dim() not in (1, 2):
        kind = type(given).__name__ if ids is None else f"{ids.dtype} tensor of shape {tuple(ids.shape)}"
        raise ConfigError(f"a batch is a {kind}; {_WANTED}")
    return {"input_ids": ids.reshape(-1, ids.shape[-1]).long()}


def check_unicode(name: str, text: str) -> None:
    """Refuse lone surrogates, which Python has in place of bytes that are not UTF-8, as no tokenizer reads them.

    Raises:
        ConfigError: the text has one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        part = text[max(0, error.start - 20) : error.start + 20]
        raise ConfigError(
            f"{name}={part!r}: character {error.start + 1} of the text is not valid Unicode (a lone surrogate); give "
            "text that was decoded from UTF-8"
        ) from None


def _tensor(name: str, value: Any) -> Any:
    """A model argument; lists of ids, which tokenizers return by default, become a tensor [B, T].

    Raises:
        ConfigError: the id lists of several sequences differ in length.
    """
    rows = [value] if _is_ids(value) else value
    if not isinstance(value, np.ndarray) and not (isinstance(rows, Sequence) and rows and all(map(_is_ids, rows))):
        return value
    if len({len(row) for row in rows}) > 1:
        raise ConfigError(f"the {name} of a batch differ in length; pad them: tokenizer(..., padding=True)")
    tensor = torch.as_tensor(value)
    return tensor[None] if tensor.dim() == 1 else tensor


def _is_ids(given: object) -> bool:
    return isinstance(given, Sequence) and len(given) > 0 and all(isinstance(x, int | np.integer) for x in given)


def patterns_of(
    given: Iterable[Pattern | str] | Pattern | str,
    tokenizer: PreTrainedTokenizerBase | None,
    token_classes: TokenClasses | None,
) -> list[Pattern]:
    """The patterns for one or several patterns or names; a string may hold several names separated by spaces.

    Raises:
        PatternError: an unknown name, or an object that is neither a pattern nor a name.
    """
    if isinstance(given, Pattern):
        given = [given]
    several: Iterable[Pattern | str] = given.split() if isinstance(given, str) else given
    return [
        get_pattern(pattern, tokenizer, token_classes) if isinstance(pattern, str) else checked_pattern(pattern)
        for pattern in several
    ]
