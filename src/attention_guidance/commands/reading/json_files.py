"""Read JSON from outside, and check it against a type; errors name the file and the place in it.

Types are those of annotations: `str`, `int`, `float`, `bool`, `None`, `Any`, `Literal`, `Annotated` with rules of
`commands/setting.py`, unions, `list`, `dict` and `TypedDict`, with `NotRequired`. An object may have further keys.
"""

from __future__ import annotations

import functools
import json
import math
import types
import typing
from pathlib import Path
from typing import Any

from attention_guidance.commands.setting import Rule
from attention_guidance.errors import GuidanceError, RunError, reason_of

# No count, loss or share is larger; larger numbers overflow in figures.
_LARGEST = 1e15
_RESTORE = "restore the file, or make it again"
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"} | {
    list: "a list",
    dict: "an object",
}


def parse_json(text: str, place: object, hint: str, error: type[GuidanceError] = RunError, **options: Any) -> Any:
    """Parse JSON.

    Args:
        text: the JSON.
        place: where it comes from, for the error.
        hint: what is expected, or how to repair it, for the error.
        error: the class of the error.
        options: of `json.loads`.

    Raises:
        GuidanceError: the text is not JSON, is nested too deeply, or has an integer of thousands of digits.
    """
    try:
        return json.loads(text, **options)
    except (ValueError, RecursionError) as caught:
        reason = "nested too deeply" if isinstance(caught, RecursionError) else reason_of(caught)
        raise error(f"{place}: not JSON ({reason}); {hint}") from caught


def read_json(path: Path, kind: Any) -> Any:
    """Read a JSON file, and check its content.

    Args:
        path: the file.
        kind: the expected type.

    Raises:
        RunError: the file cannot be read, is not JSON, or its content has another type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); give a readable file") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 ({error}); {_RESTORE}") from error
    # What is not finite is null, as in `results.write_json`.
    return checked(parse_json(text, path, _RESTORE, parse_constant=lambda name: None), kind, path)


def checked(value: Any, kind: Any, path: Path) -> Any:
    """Check a value from a file, and return it.

    Raises:
        RunError: it has another type; the message names the place in the file.
    """
    if (problem := _problem(value, kind, "")) is not None:
        raise RunError(f"{path}: {problem[0] or 'the content'} {problem[1]}; {_RESTORE}")
    return value


# A place in a file, and what must hold there.
_Problem = tuple[str, str]


def _problem(value: Any, kind: Any, place: str) -> _Problem | None:
    """The first place where a value does not match a type, or None."""
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return None
    if origin is typing.NotRequired:
        return _problem(value, members[0], place)
    if origin is typing.Annotated:
        problem = _problem(value, members[0], place)
        rules = [rule for rule in members[1:] if isinstance(rule, Rule)]
        return problem or next(((place, rule.says) for rule in rules if not rule.holds(value)), None)
    if origin in (types.UnionType, typing.Union):
        problems = [_problem(value, member, place) for member in members]
        # The problem deepest inside tells most.
        return None if None in problems else max(filter(None, problems), key=lambda problem: len(problem[0]))
    if origin is typing.Literal:
        known = any(value == member and type(value) is type(member) for member in members)
        return None if known else (place, f"must be {' or '.join(map(repr, members))}")
    if origin in (list, dict) or typing.is_typeddict(kind):
        return _problem_inside(value, kind, place)
    return None if _is_scalar(value, kind) else (place, f"must be {_NAMES[kind]}")


def _problem_inside(value: Any, kind: Any, place: str) -> _Problem | None:
    """As `_problem`, for a list or an object."""
    plain = typing.get_origin(kind) or dict
    if not isinstance(value, plain):
        return place, f"must be {_NAMES[plain]}"
    if plain is list:
        parts = ((item, typing.get_args(kind)[0], f"{place}[{number}]") for number, item in enumerate(value))
    elif typing.is_typeddict(kind):
        hints = _hints(kind)
        # Not __required_keys__, which ignores NotRequired under `from __future__ import annotations`.
        required = {key for key, of_key in hints.items() if typing.get_origin(of_key) is not typing.NotRequired}
        if missing := sorted(required - value.keys()):
            return place, f"must have {', '.join(missing)}"
        parts = ((value[key], of_key, _below(place, key)) for key, of_key in hints.items() if key in value)
    else:
        parts = ((item, typing.get_args(kind)[1], _below(place, key)) for key, item in value.items())
    return next(filter(None, (_problem(*part) for part in parts)), None)


def _is_scalar(value: Any, kind: type) -> bool:
    if kind in (int, float):
        of_kind = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST
        return of_kind and (kind is float or isinstance(value, int)) and math.isfinite(value)
    return isinstance(value, kind)


def _below(place: str, key: str) -> str:
    shown = key if len(key) <= 40 else f"{key[:40]}..."
    return f"{place}.{shown}" if place else shown


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
