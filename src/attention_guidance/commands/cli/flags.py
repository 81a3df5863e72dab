"""Flags made from declared settings, and the library's errors in the words of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any, get_origin

from attention_guidance.commands.cli.arguments import Assign, steps_or_share
from attention_guidance.commands.setting import kinds_of, settings_of

# How the library names a setting: `name`, or what was given as name=value or name['key'].
_NAMED = re.compile(
    r"`(?P<name>\w+)`|(?<![\w.'\"/-])(?P<given>\w+)"
    r"(?:=(?P<value>'[^']*'|\"[^\"]*\"|\[[^]]*\]|\{[^}]*\}|[^\s:;,]+)|\['(?P<key>\w+)'\])"
)


def add_settings(parser: argparse.ArgumentParser, record: Any) -> None:
    """Add a flag for each setting of a record; one that is not given is None, or missing if positional.

    Args:
        parser: of the command.
        record: the class of the record.
    """
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    flags = flags_of(record)
    for name, declared in settings_of(record).items():
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group)
        default = default_text(record, name)
        about = with_flags(f"{declared.help} (default: {default})" if default else declared.help, flags)
        how = _how(record, name) | {"help": about.replace("%", "%%")}
        if flags[name].startswith("-"):
            how["dest"] = name
        groups[declared.group].add_argument(flags[name] if "dest" in how else name, **how)


def flags_of(record: Any) -> dict[str, str]:
    """The flag of each setting, or the capitals of a positional argument."""
    return {name: declared.flag or f"--{name.replace('_', '-')}" for name, declared in settings_of(record).items()}


def default_text(record: Any, name: str) -> str:
    """What holds where a setting is not given; empty where nothing needs to be said."""
    default = next(field.default for field in dataclasses.fields(record) if field.name == name)
    declared = settings_of(record)[name]
    said = default is None or isinstance(default, bool) or default is dataclasses.MISSING
    others = [f"{objective}: {value}" for objective, value in declared.by_objective.items()]
    return declared.unset or "; ".join([*([] if said else [str(default)]), *others])


def with_flags(message: str, flags: Mapping[str, str], given: Collection[str] = ()) -> str:
    """A message of the library in the words of the command line.

    Args:
        message: names settings as `name`, name=value or name['key'].
        flags: the flag of each setting.
        given: settings whose values were given by flags, and not by files and defaults.
    """

    def flag(found: re.Match[str]) -> str:
        name, key, value = found["name"] or found["given"], found["key"], found["value"]
        if name not in flags or not (found["name"] or name in given):
            return found[0]
        ends = ":" if not found.start() and message.startswith(" must ", found.end()) else ""
        return flags[name] + (f" {key}" if key else f" {value}{ends}" if value else "")

    return _NAMED.sub(flag, message)


def value_of(record: Any, name: str) -> str:
    """What stands for the value of a setting in help; empty for a switch and a positional argument."""
    declared, kinds = settings_of(record)[name], _kinds(record, name)
    if bool in kinds or declared.flag.isupper():
        return ""
    listed = f"{{{','.join(declared.choices)}}}" if declared.choices else ""
    return declared.metavar or listed or ("X" if float in kinds else "N" if int in kinds else "NAME")


def _kinds(record: Any, name: str) -> set[Any]:
    return {get_origin(kind) or kind for kind in kinds_of(record, name)} - {NoneType}


def _how(record: Any, name: str) -> dict[str, Any]:
    """How argparse reads a setting of its type."""
    kinds = _kinds(record, name)
    if bool in kinds:
        return {"action": "store_true", "default": None}
    if settings_of(record)[name].flag.isupper():
        return {"nargs": "*", "default": argparse.SUPPRESS, "metavar": settings_of(record)[name].flag}
    how: dict[str, Any] = {"metavar": value_of(record, name)}
    if dict in kinds:
        return how | {"action": Assign}
    if list in kinds:
        return how | {"nargs": "+"}
    return how | {"type": steps_or_share if {int, float} <= kinds else next(iter(kinds))}
