"""Built-in patterns: offsets, first token, token classes, targets from the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attention_guidance.errors import PatternError
from attention_guidance.patterns.base import Pattern, Sequences, Union, Where, kind_of
from attention_guidance.patterns.targets import Targets

GIVEN = "guidance_targets"
"""The name of the targets in a batch, for the patterns `given` and `given.NAME`."""


@dataclass(frozen=True)
class Offset(Pattern):
    """Query i attends to key i + offset: `next` is 1, `previous` -1, `same` 0.

    A query whose key would be padding, in another document or outside the sequence has no target.
    """

    offset: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """`next`, `previous`, `same`, or `offset:k`."""
        return {1: "next", -1: "previous", 0: "same"}.get(self.offset, f"offset:{self.offset}")

    def targets(self, sequences: Sequences) -> Targets:
        """One key for every query."""
        valid_BT, documents_BT = sequences.valid_BT, sequences.documents_BT
        length = valid_BT.shape[-1]
        key_T = torch.arange(length, device=valid_BT.device) + self.offset
        inside_T = (key_T >= 0) & (key_T < length)
        at_T = key_T.clamp(0, length - 1)
        reached_BT = inside_T & valid_BT[:, at_T]
        if documents_BT is not None:
            reached_BT = reached_BT & (documents_BT[:, at_T] == documents_BT)
        return Targets(torch.where(reached_BT, key_T, -1)[..., None])


@dataclass(frozen=True)
class GridOffset(Pattern):
    """An image patch attends to the patch `down` rows below it and `right` columns to its right.

    Patches at the border and tokens that are not patches (class, distillation and register tokens, which come first)
    have no target.
    """

    name: str
    down: int
    right: int

    def targets(self, sequences: Sequences) -> Targets:
        """One key for every patch.

        Raises:
            PatternError: the input is not an image with all of its patches.
        """
        length = sequences.valid_BT.shape[-1]
        height, width = sequences.grid or (0, 0)
        if not 0 < height * width <= length:
            has = f"a grid of {height} x {width} patches and {length} positions" if sequences.grid else "no grid"
            raise PatternError(f"pattern {self.name!r} needs the patches of an image, but the model has {has}")
        n_before = length - height * width
        position_T = torch.arange(length, device=sequences.valid_BT.device)
        row_T = (position_T - n_before).div(width, rounding_mode="floor") + self.down
        column_T = (position_T - n_before) % width + self.right
        inside_T = (row_T >= 0) & (row_T < height) & (column_T >= 0) & (column_T < width) & (position_T >= n_before)
        return Targets(torch.where(inside_T, n_before + row_T * width + column_T, -1)[None, :, None])


@dataclass(frozen=True)
class First(Pattern):
    """Every query attends to the first token of its document that is not padding."""

    name: str = "first"

    def targets(self, sequences: Sequences) -> Targets:
        """A class with one key per document."""
        valid_BT, documents_BT = sequences.valid_BT, sequences.documents_BT
        count_BT = valid_BT.long().cumsum(-1)
        if documents_BT is not None:
            # Restart the count at each boundary: documents are contiguous.
            border_BT = torch.ones_like(valid_BT)
            border_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
            count_BT = count_BT - torch.where(border_BT, count_BT - valid_BT.long(), 0).cummax(-1).values
        return Targets.of_class(valid_BT & (count_BT == 1), documents_BT)


@dataclass(frozen=True)
class ClassToken(First):
    """Every query attends to the class token of an image model, the first token; an error if the model has none."""

    name: str = "class_token"


def check_crossing(pattern: Pattern) -> None:
    """Raise PatternError if a pattern has no targets in the cross-attention of a decoder."""
    if isinstance(pattern, Where):
        check_crossing(pattern.pattern)
    elif isinstance(pattern, Union):
        for member in pattern.members:
            check_crossing(member)
    elif not pattern.crosses:
        raise PatternError(
            f"pattern {pattern.name!r} is for self-attention, as a decoder's positions are not those of its encoder; "
            "cross-attention takes diagonal, soft_diagonal, given, given.NAME and your own functions (Custom)"
        )


def wants_class_token(pattern: Pattern) -> bool:
    """Whether a pattern uses the class token: itself, in a union, or for some queries only."""
    if isinstance(pattern, Where):
        return wants_class_token(pattern.pattern)
    if isinstance(pattern, Union):
        return any(map(wants_class_token, pattern.members))
    return isinstance(pattern, ClassToken)


@dataclass(frozen=True)
class TokenClass(Pattern):
    """Every query attends to all tokens of a class in its document, such as the delimiters or the full stops.

    Attributes:
        name: name of the class.
        token_ids: ids of its tokens in the model's vocabulary.
    """

    name: str
    token_ids: tuple[int, ...]

    def targets(self, sequences: Sequences) -> Targets:
        """The tokens of the class.

        Raises:
            PatternError: the model was not called with ``input_ids``.
        """
        return Targets.of_class(self.members_of(sequences), sequences.documents_BT)

    def members_of(self, sequences: Sequences) -> Tensor:
        """Which tokens belong to the class: bool [B, T]; can also serve as the rows of `Pattern.where`."""
        if sequences.input_ids_BT is None:
            raise PatternError(
                f"pattern {self.name!r} needs token ids, but the model was called without input_ids; "
                "give input_ids or use position patterns (next, previous, first, same, offset:k)"
            )
        members = torch.tensor(self.token_ids, device=sequences.input_ids_BT.device)
        return torch.isin(sequences.input_ids_BT, members) & sequences.valid_BT


@dataclass(frozen=True)
class Given(Pattern):
    """Targets for each example, taken from the batch's `guidance_targets`: a parse, an alignment.

    `guidance_targets` is long [B, T] (the key of each query, negative for none), long [B, T, P] (several keys per
    query), bool [B, T, T] (a map) or floating-point [B, T, T] (soft targets: rows of probabilities, or of zeros for a
    query without a target); or a mapping from names to such tensors, for the patterns `given.NAME`.
    """

    key: str = ""
    crosses = True

    @property
    def name(self) -> str:  # type: ignore[override]
        """`given`, or `given.KEY`."""
        return f"given.{self.key}" if self.key else "given"

    def targets(self, sequences: Sequences) -> Targets:
        """The batch's targets, without keys that are padding.

        Raises:
            PatternError: the batch has no such targets, their shape is wrong, or rows of probabilities do not sum to 1.
        """
        n_batch, n_queries, n_keys = sequences.size
        valid_BK = sequences.valid_keys
        given = self._of_batch(sequences)
        is_whole = given.shape == (n_batch, n_queries, n_keys)
        is_map = given.dtype == torch.bool and is_whole
        if given.is_floating_point() and is_whole:
            return _soft(given, self._place, valid_BK)
        is_list = not given.is_floating_point() and given.dtype != torch.bool and given.dim() in (2, 3)
        if not is_map and not (is_list and given.shape[:2] == (n_batch, n_queries)):
            size = f"[{n_batch}, {n_queries}"
            expected = (
                f"long {size}] or {size}, P], or bool {size}, {n_keys}] (a map) or float of that shape (probabilities)"
            )
            raise PatternError(f"{self._place} is {kind_of(given)}; expected {expected}")
        if is_map:
            return Targets(map_BQK=given & valid_BK[:, None])
        picks_BQP = given.long() if given.dim() == 3 else given.long()[..., None]
        if picks_BQP.shape[-1] == 0:
            picks_BQP = picks_BQP.new_full((n_batch, n_queries, 1), -1)
        key_BQP = picks_BQP.clamp(0, n_keys - 1)
        valid_BQP = valid_BK[:, None].expand(-1, n_queries, -1).gather(-1, key_BQP)
        # Drop keys beyond the end: the sequence may have been truncated.
        picks_BQP = torch.where(valid_BQP & (picks_BQP == key_BQP), picks_BQP, -1)
        return Targets(picks_BQP).listed_once()

    @property
    def _place(self) -> str:
        return f"{GIVEN}[{self.key!r}]" if self.key else GIVEN

    def _of_batch(self, sequences: Sequences) -> Tensor:
        given, size = sequences.given, list(sequences.valid_BT.shape)
        if isinstance(given, Mapping) == bool(self.key):
            given = given.get(self.key) if isinstance(given, Mapping) else given
            if isinstance(given, Tensor):
                return given
        if isinstance(sequences.given, Mapping):
            found = f"{GIVEN} holds {', '.join(map(repr, sequences.given)) or 'nothing'}"
        elif sequences.given is not None:
            found = f"{GIVEN} is {kind_of(sequences.given)}"
        else:
            found = f"{GIVEN} is missing; Trainer drops it unless TrainingArguments has remove_unused_columns=False"
        raise PatternError(f"pattern {self.name!r} needs {self._place} in each batch (long {size}), but {found}")


@dataclass(frozen=True)
class Custom(Pattern):
    """A user-defined pattern: a name and a function from `Sequences` to a tensor [B, Q, K] or to `Targets`.

    A bool tensor is a map, and a floating-point one soft targets: rows of probabilities, or of zeros for a query
    without a target. A bool tensor [B, K] or [B, 1, K] gives the same keys to every query; this form and `Targets` keep
    memory linear in the length. A batch dimension of 1 is broadcast to all sequences.
    """

    name: str
    function: Callable[[Sequences], Tensor | Targets]
    crosses = True

    def targets(self, sequences: Sequences) -> Targets:
        """The function's result as `Targets`.

        Raises:
            PatternError: the result has the wrong type or shape, or rows of probabilities do not sum to 1.
        """
        result = self.function(sequences)
        if isinstance(result, Targets):
            return result.checked(self.name, *sequences.size)
        n_batch, n_queries, n_keys = sequences.size
        valid_BK = sequences.valid_keys
        whole = isinstance(result, Tensor) and result.shape in {(1, n_queries, n_keys), (n_batch, n_queries, n_keys)}
        if whole and result.is_floating_point():
            return _soft(result, f"pattern {self.name!r}", valid_BK)
        shapes = [(n, *rest) for n in (1, n_batch) for rest in ((n_keys,), (1, n_keys), (n_queries, n_keys))]
        if not isinstance(result, Tensor) or result.dtype != torch.bool or tuple(result.shape) not in shapes:
            raise PatternError(
                f"pattern {self.name!r} returned {kind_of(result)}; expected Targets, or a bool tensor "
                f"[B, Q, K] = [{n_batch}, {n_queries}, {n_keys}] or [B, K] = [{n_batch}, {n_keys}]"
            )
        if result.dim() == 2 or result.shape[1] == 1:
            members_BK = result.reshape(result.shape[0], -1) & valid_BK
            return Targets.of_class(members_BK, n_queries=n_queries)
        return Targets(map_BQK=result & valid_BK[:, None])


def _soft(rows_BQK: Tensor, name: str, valid_BK: Tensor) -> Targets:
    """Soft targets without keys that are padding."""
    checked = Targets.of_rows(rows_BQK, name).soft_BQK
    assert checked is not None
    return Targets(soft_BQK=checked.masked_fill(~valid_BK[:, None], 0.0))
