"""What a pattern is, what it may look at, and how patterns compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_guidance.errors import PatternError
from attention_guidance.patterns.drawing import draw, tokens_and_ids
from attention_guidance.patterns.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Sequence as Listing

    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sequences:
    """What a pattern may look at: one batch of sequences.

    Attributes:
        valid_BT: bool, True where there is a token and False where there is padding.
        input_ids_BT: token ids as the model sees them (masked tokens are masks), or None for models fed otherwise.
        documents_BT: the number of each token's document where several are packed into a sequence, else None; no
            target of a named pattern lies in another document.
        grid: height and width of the patches that end the sequence of an image, else None.
        given: what the batch holds under `guidance_targets`.
    """

    valid_BT: Tensor
    input_ids_BT: Tensor | None = None
    documents_BT: Tensor | None = None
    grid: tuple[int, int] | None = None
    given: Tensor | Mapping[str, Tensor] | None = None


Rows = Callable[[Sequences], Tensor]


class Pattern(ABC):
    """For every query position, the set of key positions that the head should attend to (S_i, paper section 3).

    A subclass has a `name` and gives `targets`. Keys that the model's mask hides are removed later, by the loss.
    """

    name: str

    @abstractmethod
    def targets(self, sequences: Sequences) -> Targets:
        """The target keys of every query."""

    def __or__(self, other: Pattern) -> Union:
        """The union: a query's targets are those of either pattern."""
        return Union((*members(self), *members(other)))

    def where(self, rows: Rows, name: str = "") -> Where:
        """The same pattern for some queries only; the others have no target and do not count.

        Args:
            rows: a function from `Sequences` to bool [B, Q].
            name: what to call the result; `NAME[where]` without.
        """
        return Where(self, rows, name or f"{self.name}[where]")

    def describe(self, text: str | Listing[str], tokenizer: PreTrainedTokenizerBase | None = None) -> str:
        """Draw the pattern on a sentence, as text.

        Args:
            text: a sentence, split by the tokenizer or, without one, at spaces; or its tokens (those of the tokenizer).
            tokenizer: also tells a token class its members.

        Returns:
            Lines of text: the name, then for each query its token, a row of marks (`#` a target, `.` none) and the
            targets.

        Raises:
            PatternError: the pattern looks at token ids and there is no tokenizer.

        Example::

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
    """Targets of any of its members."""

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
        """The pattern's targets, none for the queries left out.

        Raises:
            PatternError: `rows` gave something else than bool [B, Q] or [1, Q].
        """
        rows_BQ, (n_batch, length) = self.rows(sequences), sequences.valid_BT.shape
        fits = isinstance(rows_BQ, Tensor) and rows_BQ.shape in {(n_batch, length), (1, length)}
        if not fits or rows_BQ.dtype != torch.bool:
            raise PatternError(
                f"rows of {self.name!r} are {kind_of(rows_BQ)}; expected a bool tensor [{n_batch}, {length}]"
            )
        return self.pattern.targets(sequences).where(rows_BQ)


def members(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns that a union is made of; any other pattern is its own only member."""
    return pattern.members if isinstance(pattern, Union) else (pattern,)


def checked_pattern(pattern: object) -> Pattern:
    """A pattern, once it is known to have what guidance uses of it: its name, and its hash, by which heads are grouped.

    Raises:
        PatternError: it is none, or one of the user's that lacks these.
    """
    kind = type(pattern).__name__
    if not isinstance(pattern, Pattern):
        raise PatternError(f"{pattern!r} is no pattern; give a Pattern, or wrap a function as Custom('name', function)")
    if not isinstance(getattr(pattern, "name", None), str):
        raise PatternError(f"a pattern of class {kind} has no name; give the class a `name`, a text")
    try:
        hash(pattern)
    except TypeError as error:
        raise PatternError(
            f"pattern {pattern.name!r} ({kind}) cannot be hashed ({error}); make it a frozen dataclass whose values "
            "can be, tuples instead of lists"
        ) from error
    return pattern


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def checked_targets(pattern: Pattern, sequences: Sequences) -> Targets:
    """A pattern's targets; those of a class of the user's are looked at first, and their keys listed once.

    Raises:
        PatternError: they are no `Targets`, or do not fit the batch.
    """
    targets = pattern.targets(sequences)
    if type(pattern).__module__.startswith(__package__):
        return targets
    n_batch, length = sequences.valid_BT.shape
    name = getattr(pattern, "name", type(pattern).__name__)
    if not isinstance(targets, Targets):
        raise PatternError(f"pattern {name!r} returned {type(targets).__name__}; expected Targets")
    return targets.checked(name, n_batch, length)
