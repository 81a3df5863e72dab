"""A setting, declared once: its field carries what flags, YAML files, checks and documentation are made of."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from attention_guidance.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """A condition, of a value that is not None or of a whole record, and how an error says it."""

    says: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """What a field of a record of settings says about itself; in texts, `name` stands for another setting.

    Attributes:
        default: its default.
        help: what it is, without a full stop.
        must: rules for its value.
        group: heading that it stands under; empty for none.
        unset: what holds where it is not given, if its default does not say it.
        by_objective: defaults for objectives that another value suits better.
        metavar: what stands for its value in help; by its type if empty.
        flag: its flag, or in capitals a positional argument; by its name if empty.
        choices: all values that it may have, if they can be listed.
        needs: what it is for: rules for the record, without which it would do nothing.
        fills: field of transformers' TrainingArguments that gets its value.
        decides: other fields of TrainingArguments that follow from it, with spaces between them.
        free: whether a run that is resumed may have another value.
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


_FINITE = Rule("must be a finite number", math.isfinite)
POSITIVE = Rule("must be above 0", lambda value: value > 0)
NOT_NEGATIVE = Rule("must be 0 or more", lambda value: value >= 0)
AT_LEAST_1 = Rule("must be at least 1", lambda value: value >= 1)
SHARE = Rule("must lie between 0 and 1", lambda value: 0 < value < 1)
SHARE_OR_0 = Rule("must be at least 0 and below 1", lambda value: 0 <= value < 1)
SEED = Rule("must be 0 or more and below 2**32", lambda value: 0 <= value < 2**32)


def setting(default: Any, help: str, *must: Rule, **more: Any) -> Any:
    """A field of a dataclass that is a setting; see `Setting`."""
    if choices := more.get("choices"):
        must = (*must, Rule(f"is unknown; expected one of {', '.join(choices)}", choices.__contains__))
    metadata = {"setting": Setting(default, help, must, **more)}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(record: Any) -> dict[str, Setting]:
    """The settings of a record, or of its class, by name."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(record) if "setting" in f.metadata}


def check(record: Any) -> None:
    """Make sure that each setting of a record follows its rules.

    Raises:
        ConfigError: one does not.
    """
    for name, declared in settings_of(record).items():
        value = getattr(record, name)
        for rule in (*([_FINITE] if isinstance(value, float) else []), *declared.must):
            if value is not None and not rule.holds(value):
                raise ConfigError(f"{name}={value!r} {rule.says}")


def check_needs(record: Any, given: Collection[str], defaults: Mapping[str, Any]) -> None:
    """Make sure that every setting that was given has an effect.

    Args:
        record: the settings.
        given: names of those that were given.
        defaults: what they would be otherwise.

    Raises:
        ConfigError: one has none; says what it is for.
    """
    for name, declared in settings_of(record).items():
        value = getattr(record, name)
        unmet = [need.says for need in declared.needs if not need.holds(record)]
        if unmet and name in given and value != defaults[name]:
            raise ConfigError(f"{name}={value!r} is for {unmet[0]}; leave it out")


def kinds_of(record: Any, name: str) -> tuple[Any, ...]:
    """The types that a setting may have, those of members of lists and mappings among them."""
    hint = _hints(record if isinstance(record, type) else type(record))[name]
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    return typing.get_type_hints(record)


def coerced(record: Any, name: str, value: Any, source: object = None, called: str = "") -> Any:
    """A value of the type of its field: YAML writes 1e-3 as text, 1 for 1.0 and one text for a list of one.

    Args:
        record: a dataclass.
        name: of the field.
        value: as it was given.
        source: the file it comes from, if any.
        called: the field's name in errors, if it has another there.

    Raises:
        ConfigError: it is of another type.
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
    """Whether a value is of a type, as are its members; YAML reads 1 and yes as no text."""
    plain: Any = object if kind is Any else typing.get_origin(kind) or kind
    members = typing.get_args(kind)
    if not isinstance(value, plain) or (isinstance(value, bool) and plain not in (bool, object)):
        return False
    if members and isinstance(value, dict):
        return all(_is(key, members[0]) and _is(held, members[1]) for key, held in value.items())
    return not members or all(_is(held, members[0]) for held in value)
