"""The `Pattern` base class, its input `Sequences`, and `Union` and `Where`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from attention_guidance.errors import PatternError
from attention_guidance.patterns.drawing import draw, tokens_and_ids
from attention_guidance.patterns.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sequences:
    """The input of a pattern: one batch of sequences.

    Examples:
        >>> sequences = Sequences(torch.tensor([[True, True, True, False]]))  # three tokens and padding
        >>> get_pattern("next").targets(sequences).dense().int().tolist()
        [[[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]

    Attributes:
        valid_BT: bool, True for tokens and False for padding.
        input_ids_BT: token ids as the model sees them (with mask tokens), or None for models with other inputs.
        documents_BT: the document index of each token if several documents are packed into a sequence, else None; the
            targets of a named pattern are always in the query's document.
        grid: height and width in patches if the sequence ends with the patches of an image, else None.
        given: the batch's `guidance_targets`.
        keys_BK: bool, True for keys that are tokens, if a decoder attends to an encoder; the other fields are then
            about the decoder's tokens, which are the queries. None if keys are the queries' own sequence.
    """

    valid_BT: Tensor
    input_ids_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    grid: tuple[int, int] | None = None
    given: Tensor | Mapping[str, Tensor] | None = None
    keys_BK: Tensor | None = None

    @property
    def valid_keys(self) -> Tensor:
        """Bool [B, K], True for keys that are tokens."""
        return self.valid_BT if self.keys_BK is None else self.keys_BK

    @property
    def size(self) -> tuple[int, int, int]:
        """The number of sequences, queries and keys."""
        return self.valid_BT.shape[0], self.valid_BT.shape[1], self.valid_keys.shape[1]


Rows = Callable[[Sequences], Tensor]
"""A function from a batch to the queries that follow a pattern, bool [B, Q]."""


class Pattern(ABC):
    """For every query position, the set of key positions that the head should attend to (S_i, paper section 3).

    Subclasses define `name` and `targets`. The loss later removes keys that the model's attention mask hides.

    Attributes:
        name: how it is called.
        crosses: whether it has targets where a decoder attends to an encoder, whose positions are other ones.

    Examples:
        >>> class Mirror(Pattern):
        ...     name = "mirror"
        ...
        ...     def targets(self, sequences):
        ...         length = sequences.valid_BT.shape[1]
        ...         return Targets(torch.arange(length).flip(0)[None, :, None])
        >>> print(Mirror().describe("the cat sat"))
        mirror: 3 of 3 queries have a target
        the  . . #  -> sat
        cat  . # .  -> cat
        sat  # . .  -> the
        >>> guidance = guide(model, {Mirror(): 1})
    """

    name: str
    crosses: ClassVar[bool] = False

    @abstractmethod
    def targets(self, sequences: Sequences) -> Targets:
        """The target keys of every query."""

    def __or__(self, other: Pattern) -> Union:
        """The union: a query's targets are those of either pattern."""
        return Union((*members(self), *members(other)))

    def where(self, rows: Rows, name: str = "") -> Where:
        """Restrict the pattern to some queries; the others have no target and do not contribute to the loss.

        Args:
            rows: a function from `Sequences` to bool [B, Q].
            name: name of the result (default: `NAME[where]`).
        """
        return Where(self, rows, name or f"{self.name}[where]")

    def describe(self, text: str | Sequence[str], tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """Draw the pattern on a sentence, as text.

        Args:
            text: a sentence, which is split by the tokenizer (default: at whitespace); or a list of tokens.
            tokenizer: required by patterns that use token ids.

        Returns:
            Lines of text: the name, then for each query its token, a row of marks (`#` is a target, `.` is not) and
            the targets.

        Raises:
            PatternError: the pattern uses token ids and there is no tokenizer.

        Examples:
            >>> print(get_pattern("next").describe("the cat sat"))
            next: 2 of 3 queries have a target
            the  . # .  -> cat
            cat  . . #  -> sat
            sat  . . .
        """
        tokens, ids = tokens_and_ids(text, tokenizer)
        valid_BT = torch.ones((1, len(tokens)), dtype=torch.bool)
        sequences = Sequences(valid_BT, None if ids is None else torch.tensor([ids]))
        targets_QK = self.targets(sequences).dense()[0].expand(len(tokens), len(tokens))
        return draw(self.name, targets_QK.tolist(), tokens)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Union(Pattern):
    """The union of several patterns: their targets taken together."""

    members: tuple[Pattern, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The members' names joined by `|`."""
        return "|".join(member.name for member in self.members)

    def targets(self, sequences: Sequences) -> Targets:
        """The union of the members' targets."""
        result = self.members[0].targets(sequences)
        for member in self.members[1:]:
            result = result | member.targets(sequences)
        return result


@dataclass(frozen=True)
class Where(Pattern):
    """A pattern for some queries only."""

    pattern: Pattern
    rows: Rows
    name: str

    def targets(self, sequences: Sequences) -> Targets:
        """The pattern's targets for the selected queries, none for the others.

        Raises:
            PatternError: `rows` did not return bool [B, Q] or [1, Q].
        """
        rows_BQ, (n_batch, length) = self.rows(sequences), sequences.valid_BT.shape
        fits = isinstance(rows_BQ, Tensor) and rows_BQ.shape in {(n_batch, length), (1, length)}
        if not fits or rows_BQ.dtype != torch.bool:
            raise PatternError(
                f"rows of {self.name!r} are {kind_of(rows_BQ)}; expected a bool tensor [{n_batch}, {length}]"
            )
        return self.pattern.targets(sequences).where(rows_BQ)


def members(pattern: Pattern) -> tuple[Pattern, ...]:
    """The members of a union; for any other pattern, the pattern itself."""
    return pattern.members if isinstance(pattern, Union) else (pattern,)


def checked_pattern(pattern: object) -> Pattern:
    """Check that an object is a pattern with a name and a hash (heads are grouped by it), and return it.

    Raises:
        PatternError: it is not a `Pattern`, or has no name or no hash.
    """
    kind = type(pattern).__name__
    if not isinstance(pattern, Pattern):
        raise PatternError(f"{pattern!r} is not a Pattern; to use a function, wrap it as Custom('name', function)")
    if not isinstance(getattr(pattern, "name", None), str):
        raise PatternError(f"a pattern of class {kind} has no name; give the class a `name` (a string)")
    try:
        hash(pattern)
    except TypeError as error:
        raise PatternError(
            f"pattern {pattern.name!r} ({kind}) is not hashable ({error}); make it a frozen dataclass with hashable "
            "fields, tuples instead of lists"
        ) from error
    return pattern


def kind_of(value: object) -> str:
    """The dtype and shape, or the type, of a value, for error messages."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def checked_targets(pattern: Pattern, sequences: Sequences) -> Targets:
    """A pattern's targets; those of a user-defined class are validated and deduplicated.

    Raises:
        PatternError: they are not `Targets`, or do not fit the batch.
    """
    targets = pattern.targets(sequences)
    if type(pattern).__module__.startswith(__package__):
        return targets
    name = getattr(pattern, "name", type(pattern).__name__)
    if not isinstance(targets, Targets):
        raise PatternError(f"pattern {name!r} returned {type(targets).__name__}; expected Targets")
    return targets.checked(name, *sequences.size)
