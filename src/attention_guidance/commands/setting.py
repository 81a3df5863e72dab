"""Declare each setting once, as a field: flags, YAML files, checks and documentation are made from it."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from attention_guidance.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """A condition on a value that is not None, or on a whole record.

    Attributes:
        says: The condition in words, for error messages.
        holds: Whether a value, or a record, meets it.
    """

    says: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting. Texts refer to other settings as `name`, in backticks.

    Attributes:
        default: Default value.
        help: Description, without a full stop.
        must: Rules for the value.
        group: Heading in help and documentation; empty for none.
        unset: Description of the default, if the value does not describe itself.
        by_objective: Other defaults, by objective.
        metavar: Placeholder for the value in help (default: from its type).
        flag: Flag, or, in capitals, positional argument (default: from the name).
        choices: All allowed values, if they can be listed.
        needs: Rules for the record; unless all hold, the setting has no effect.
        fills: Field of transformers' TrainingArguments that is set to the value.
        decides: Other fields of TrainingArguments that depend on the value, separated by spaces.
        free: Whether the value may change when a run is resumed.
    """

    default: Any
    help: str
    must: tuple[Rule, ...] = ()
    group: str = ""
    unset: str = ""
    by_objective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metavar: str = ""
    flag: str = ""
    choices: tuple[str, ...] = ()
    needs: tuple[Rule, ...] = ()
    fills: str = ""
    decides: str = ""
    free: bool = False


_translation: ContextVar[Callable[[str], str]] = ContextVar("translation", default=str)


@contextmanager
def translated(translate: Callable[[str], str]) -> Iterator[None]:
    """Within this context, `for_user` translates messages with `translate`: the command line names flags."""
    token = _translation.set(translate)
    try:
        yield
    finally:
        _translation.reset(token)


def for_user(message: str) -> str:
    """A printed message that names settings, as `name` or name=value, in the terms in which the user gives them."""
    return _translation.get()(message)


_FINITE = Rule("must be a finite number", math.isfinite)
POSITIVE = Rule("must be above 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("must be 0 or more", lambda value: value >= 0)
AT_LEAST_1 = Rule("must be at least 1", lambda value: value >= 1)
SHARE = Rule("must lie between 0 and 1", lambda value: 0 < value < 1)
SHARE_OR_0 = Rule("must be at least 0 and below 1", lambda value: 0 <= value < 1)
SEED = Rule("must be 0 or more and below 2**32", lambda value: 0 <= value < 2**32)


def setting(default: Any, help: str, *must: Rule, **more: Any) -> Any:
    """Declare a field of a dataclass as a setting; see `Setting`."""
    if choices := more.get("choices"):
        must = (*must, Rule(f"is unknown; expected one of {', '.join(choices)}", choices.__contains__))
    metadata = {"setting": Setting(default, help, must, **more)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(record: Any) -> dict[str, Setting]:
    """The settings of a dataclass or its instance, by name."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(record) if "setting" in f.metadata}


def check(record: Any) -> None:
    """Check each setting of a record by its rules.

    Raises:
        ConfigError: A value breaks a rule.
    """
    for name, declared in settings_of(record).items():
        value = getattr(record, name)
        for rule in (*([_FINITE] if isinstance(value, float) else []), *declared.must):
            if value is not None and not rule.holds(value):
                raise ConfigError(f"{name}={value!r} {rule.says}")


def check_needs(record: Any, given: Collection[str]) -> None:
    """Check that every setting that was given has an effect.

    Args:
        record: The settings.
        given: Names of the settings that were given.

    Raises:
        ConfigError: A setting has no effect; the message says what it is for.
    """
    for name, declared in settings_of(record).items():
        value = getattr(record, name)
        unmet = [need.says for need in declared.needs if not need.holds(record)]
        if unmet and name in given:
            raise ConfigError(f"{name}={value!r} is for {unmet[0]}; leave it out")


def kinds_of(record: Any, name: str) -> tuple[Any, ...]:
    """The types that a setting allows, including the types of the members of lists and mappings."""
    hint = _hints(record if isinstance(record, type) else type(record))[name]
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def coerced(record: Any, name: str, value: Any, source: object = None, called: str = "") -> Any:
    """Convert a value to the type of its field.

    YAML reads 1e-3 as text and 1 as an integer, and a list of one text may be given as that text.

    Args:
        record: A dataclass.
        name: Name of the field.
        value: The value as given.
        source: The file it was read from, if any.
        called: Name of the field in error messages (default: `name`).

    Raises:
        ConfigError: The value has another type.
    """
    kinds = kinds_of(record, name)
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    given = f"{called or name}={value!r}" + (f" in {source}" if source else "")
    if list in plain and isinstance(value, str):
        value = [value]
    if any(_is(value, kind) for kind in kinds):
        return value
    if isinstance(value, list | dict) and type(value) in plain:
        raise ConfigError(f"{given} must hold text; put it in quotes")
    if float in plain and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    wanted = " or ".join("nothing" if kind is types.NoneType else kind.__name__ for kind in plain)
    raise ConfigError(f"{given} must be {wanted}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value and its members have a type; YAML reads 1 as an integer and yes as a boolean, not as text."""
    plain: Any = object if kind is Any else typing.get_origin(kind) or kind
    members = typing.get_args(kind)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain not in (bool, object)):
        return False
    if members and isinstance(value, dict):
        return all(_is(key, members[0]) and _is(held, members[1]) for key, held in value.items())
    return not members or all(_is(held, members[0]) for held in value)
