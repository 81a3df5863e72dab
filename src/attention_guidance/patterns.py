"""Named patterns of attention: for every query, the keys a guided head should look at.

A pattern is a small object that turns what is known of a batch (`Sequences`) into a boolean map of targets. The
same objects train heads, measure heads and draw heads. They compose: ``Offset(-1) | Offset(1)``.

Shape suffixes: B batch, Q query positions, K key positions, T positions (Q = K = T in an encoder).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attention_guidance.errors import PatternError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Sentence-final stops, one of which most scripts use; the "period" class of the paper (section 3) beyond English.
FULL_STOPS = frozenset(".。．｡।॥።።۔။។༎")

TokenClasses = Mapping[str, "Collection[str] | Collection[int] | Callable[[str], bool]"]


@dataclass(frozen=True)
class Sequences:
    """What a pattern may look at: one batch of token sequences.

    Attributes:
        valid_BT: bool, True where there is a token and False where there is padding.
        input_ids_BT: token ids as the model sees them (masked tokens are masks), or None for models fed otherwise.
    """

    valid_BT: Tensor
    input_ids_BT: Tensor | None = None


class Pattern(ABC):
    """For every query position, the set of key positions that the head should attend to (S_i, paper section 3).

    A subclass has a `name` and gives `targets`. Keys that the model's mask hides are removed later, by the loss.
    """

    name: str

    @abstractmethod
    def targets(self, sequences: Sequences) -> Tensor:
        """The target keys of every query: bool, [B, Q, K] or broadcastable to it."""

    def __or__(self, other: Pattern) -> Union:
        """The union: a query's targets are those of either pattern."""
        return Union((*_members(self), *_members(other)))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Offset(Pattern):
    """Query i looks at key i + offset: `next` is 1, `previous` -1, `same` 0.

    A query whose key would lie outside the sequence has no target.
    """

    offset: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """`next`, `previous`, `same`, or `offset:k`."""
        return {1: "next", -1: "previous", 0: "same"}.get(self.offset, f"offset:{self.offset}")

    def targets(self, sequences: Sequences) -> Tensor:
        """One diagonal: bool [1, Q, K]."""
        position_T = torch.arange(sequences.valid_BT.shape[-1], device=sequences.valid_BT.device)
        return (position_T[None, :] - position_T[:, None] == self.offset)[None]


@dataclass(frozen=True)
class First(Pattern):
    """Every query looks at the first token that is not padding."""

    name: str = field(default="first", init=False)

    def targets(self, sequences: Sequences) -> Tensor:
        """One column of each sequence: bool [B, 1, K]."""
        valid_BT = sequences.valid_BT
        return (valid_BT & (valid_BT.long().cumsum(-1) == 1))[:, None, :]


@dataclass(frozen=True)
class TokenClass(Pattern):
    """Every query looks at all tokens of a class, such as the delimiters or the full stops.

    Attributes:
        name: what the class is called.
        token_ids: the ids of its members in the model's vocabulary.
    """

    name: str
    token_ids: tuple[int, ...]

    def targets(self, sequences: Sequences) -> Tensor:
        """The columns that hold a token of the class: bool [B, 1, K].

        Raises:
            PatternError: the model was not called with ``input_ids``.
        """
        if sequences.input_ids_BT is None:
            raise PatternError(
                f"pattern {self.name!r} looks at tokens, but the model was called without input_ids; "
                "give input_ids or use position patterns (next, previous, first, same, offset:k)"
            )
        members = torch.tensor(self.token_ids, device=sequences.input_ids_BT.device)
        return torch.isin(sequences.input_ids_BT, members)[:, None, :]


@dataclass(frozen=True)
class Custom(Pattern):
    """A pattern of one's own: a name and a function from `Sequences` to a bool tensor [B, Q, K]."""

    name: str
    function: Callable[[Sequences], Tensor]

    def targets(self, sequences: Sequences) -> Tensor:
        """What the function returns."""
        return self.function(sequences)


@dataclass(frozen=True)
class Union(Pattern):
    """Targets of any of its members."""

    members: tuple[Pattern, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The members' names joined by `|`."""
        return "|".join(member.name for member in self.members)

    def targets(self, sequences: Sequences) -> Tensor:
        """The union of the members' targets: bool, broadcastable to [B, Q, K]."""
        result = self.members[0].targets(sequences)
        for member in self.members[1:]:
            result = result | member.targets(sequences)
        return result


def _members(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.members if isinstance(pattern, Union) else (pattern,)


NAMED: dict[str, Pattern] = {
    "next": Offset(1),
    "previous": Offset(-1),
    "same": Offset(0),
    "first": First(),
}
TOKEN_CLASSES = ("delimiter", "period")


def get_pattern(
    name: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Mapping[str, Pattern] | None = None,
) -> Pattern:
    """Look a pattern up by its name.

    Args:
        name: `next`, `previous`, `same`, `first`, `delimiter`, `period`, `offset:k`, a class or pattern of the user's,
            or several of them joined by `|`.
        tokenizer: tells which ids belong to a token class; needed for those only.
        token_classes: the user's own classes: a name and its tokens (as text, without surrounding space), its ids, or
            a function that says of a token's text whether it belongs.
        patterns: the user's own patterns by name.

    Returns:
        The pattern.

    Raises:
        PatternError: no such pattern, or a token class without a tokenizer or without members.
    """
    if "|" in name:
        parts = [get_pattern(part.strip(), tokenizer, token_classes, patterns) for part in name.split("|")]
        return Union(tuple(member for part in parts for member in _members(part)))
    if patterns and name in patterns:
        if not isinstance(patterns[name], Pattern):
            raise PatternError(f"patterns[{name!r}] is no Pattern; wrap a function as Custom({name!r}, function)")
        return patterns[name]
    if name in NAMED:
        return NAMED[name]
    if match := re.fullmatch(r"offset:([+-]?\d+)", name):
        return Offset(int(match[1]))
    if name in TOKEN_CLASSES or (token_classes and name in token_classes):
        return TokenClass(name, _token_ids(name, tokenizer, token_classes or {}))
    # A class of one's own may bear the name of a built-in one.
    known = dict.fromkeys([*NAMED, *TOKEN_CLASSES, "offset:k", *(token_classes or ()), *(patterns or ())])
    raise PatternError(f"unknown pattern {name!r}; expected one of {', '.join(known)}, or a token class of yours")


def _token_ids(name: str, tokenizer: PreTrainedTokenizerBase | None, token_classes: TokenClasses) -> tuple[int, ...]:
    """The ids of a class's members, sorted."""
    wanted = token_classes.get(name)
    if isinstance(wanted, Collection) and wanted and all(isinstance(member, int) for member in wanted):
        return tuple(sorted(int(member) for member in wanted))
    if tokenizer is None:
        raise PatternError(f"pattern {name!r} is a class of tokens: give tokenizer= so that its ids can be found")
    if wanted is None and name == "delimiter":
        ids = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    elif wanted is None:
        ids = _ids_by_text(tokenizer, FULL_STOPS.__contains__)
    elif callable(wanted):
        ids = _ids_by_text(tokenizer, wanted)
    else:
        ids = _ids_by_text(tokenizer, set(wanted).__contains__)
    if not ids:
        raise PatternError(f"pattern {name!r}: no token of the tokenizer's {len(tokenizer)} belongs to this class")
    return tuple(sorted(ids))


def _ids_by_text(tokenizer: PreTrainedTokenizerBase, belongs: Callable[[str], bool]) -> set[int]:
    """The ids of all tokens whose text, without word-boundary marks and space, belongs."""
    ids = set()
    for token, index in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([token]).strip().removeprefix("##")
        if text and belongs(text):
            ids.add(index)
    return ids
