"""Look up patterns by name: `next`, `first`, `offset:-2`, `previous|next`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from attention_guidance.errors import PatternError
from attention_guidance.patterns.alignment import Diagonal
from attention_guidance.patterns.base import Pattern, Union, members
from attention_guidance.patterns.kinds import ClassToken, First, Given, GridOffset, Offset, TokenClass

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Full stops of most scripts: the paper's "period" class (section 3), extended beyond English.
FULL_STOPS = frozenset(".。．｡།॥።።۔။۔༎")

# Keys are names, but a mapping is invariant in its keys: to a type checker, Mapping[str, ...] would exclude a dict with
# keys of a Literal type.
TokenClasses = Mapping[Any, "Collection[str] | Collection[int] | Callable[[str], bool]"]
"""Token classes of the user: by name the tokens as text, their ids, or a function from a token's text to bool."""

Patterns = Mapping[Any, Pattern]
"""Patterns of the user, by name."""

NAMED: dict[str, Pattern] = {
    "next": Offset(1),
    "previous": Offset(-1),
    "same": Offset(0),
    "first": First(),
    "left": GridOffset("left", 0, -1),
    "right": GridOffset("right", 0, 1),
    "up": GridOffset("up", -1, 0),
    "down": GridOffset("down", 1, 0),
    "class_token": ClassToken(),
    "diagonal": Diagonal(),
    "soft_diagonal": Diagonal("soft_diagonal", 0.1),
}
"""The patterns with a fixed name that need no tokenizer."""

TOKEN_CLASSES = ("delimiter", "period")
"""The built-in token classes, whose ids come from the tokenizer."""


@overload
def get_pattern(
    name: Literal["delimiter", "period"],
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: None = None,
) -> TokenClass: ...


@overload
def get_pattern(
    name: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Patterns | None = None,
) -> Pattern: ...


def get_pattern(
    name: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Patterns | None = None,
) -> Pattern:
    """Look up a pattern by name.

    Examples:
        >>> get_pattern("offset:-2")
        Offset(offset=-2)
        >>> get_pattern("vowel", tokenizer, {"vowel": list("aeiou")}).name
        'vowel'

    Args:
        name: `next`, `previous`, `same`, `first`, `delimiter`, `period`, `offset:k`, `diagonal`, `soft_diagonal`; for
            images `left`, `right`, `up`, `down`, `class_token`; `given` or `given.KEY` for targets from the batch; a
            name in `token_classes` or `patterns`; or several of these joined by `|`.
        tokenizer: the model's tokenizer; required for token classes, whose ids it provides.
        token_classes: user-defined token classes: a name mapped to the tokens as text (without surrounding spaces), to
            token ids, or to a function from a token's text to bool.
        patterns: user-defined patterns by name.

    Returns:
        The pattern.

    Raises:
        PatternError: an unknown pattern, or a token class that is empty or lacks a tokenizer.
    """
    if not isinstance(name, str):
        raise PatternError(f"the name of a pattern must be a string such as 'next', not {name!r}")
    for argument, given in (("token_classes", token_classes), ("patterns", patterns)):
        if given is not None and not isinstance(given, Mapping):
            raise PatternError(f"{argument}= is a {type(given).__name__}; give a mapping with names as keys")
    if "|" in name:
        parts = [get_pattern(part.strip(), tokenizer, token_classes, patterns) for part in name.split("|")]
        return Union(tuple(member for part in parts for member in members(part)))
    if patterns and name in patterns:
        if not isinstance(patterns[name], Pattern):
            raise PatternError(f"patterns[{name!r}] is not a Pattern; wrap a function as Custom({name!r}, function)")
        return patterns[name]
    if name in NAMED:
        return NAMED[name]
    if match := re.fullmatch(r"offset:([+-]?\d{1,9})", name):
        return Offset(int(match[1]))
    if match := re.fullmatch(r"given(?:\.(.+))?", name):
        return Given(match[1] or "")
    if name in TOKEN_CLASSES or (token_classes and name in token_classes):
        return TokenClass(name, _token_ids(name, tokenizer, token_classes or {}))
    # A user-defined class may have the name of a built-in one.
    known = dict.fromkeys([*NAMED, *TOKEN_CLASSES, "offset:k", "given", *(token_classes or ()), *(patterns or ())])
    raise PatternError(f"unknown pattern {name!r}; expected one of {', '.join(known)}, or a name in token_classes=")


def _token_ids(name: str, tokenizer: PreTrainedTokenizerBase | None, token_classes: TokenClasses) -> tuple[int, ...]:
    """The sorted ids of the tokens in a class."""
    wanted = token_classes.get(name)
    if isinstance(wanted, str):
        raise PatternError(f"token_classes[{name!r}] is the string {wanted!r}; give a list of tokens: [{wanted!r}]")
    if isinstance(wanted, Collection) and wanted and all(isinstance(member, int) for member in wanted):
        return tuple(sorted(int(member) for member in wanted))
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        instead = "" if tokenizer is None else f", loaded by AutoTokenizer.from_pretrained (not {tokenizer!r})"
        raise PatternError(f"pattern {name!r} is a class of tokens: give tokenizer= to look up their ids{instead}")
    if wanted is None and name == "delimiter":
        ids = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
    elif wanted is None:
        ids = _ids_by_text(tokenizer, FULL_STOPS.__contains__)
    elif callable(wanted):
        ids = _ids_by_text(tokenizer, wanted)
    else:
        ids = _ids_by_text(tokenizer, set(wanted).__contains__)
    if not ids:
        raise PatternError(f"pattern {name!r}: none of the tokenizer's {len(tokenizer)} tokens belongs to this class")
    return tuple(sorted(ids))


def _ids_by_text(tokenizer: PreTrainedTokenizerBase, belongs: Callable[[str], bool]) -> set[int]:
    """The ids of all tokens whose text, without word-boundary markers and spaces, belongs to the class."""
    ids = set()
    for token, index in tokenizer.get_vocab().items():
        text = tokenizer.convert_tokens_to_string([token]).strip().removeprefix("##")
        if text and belongs(text):
            ids.add(index)
    return ids
