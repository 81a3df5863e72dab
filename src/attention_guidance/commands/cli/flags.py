"""Create flags from declared settings, and translate the library's messages to flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from attention_guidance.commands.cli.arguments import Assign, steps_or_share
from attention_guidance.commands.setting import Setting, kinds_of, settings_of

# How the library names a setting: `name`, or with its value, name=value or name['key'].
_NAMED = re.compile(
    r"`(?P<name>\w+)`|(?<![\w.'\"/-])(?P<given>\w+)"
    r"(?:=(?P<value>'[^']*'|\"[^\"]*\"|\[[^]]*\]|\{[^}]*\}|[^\s:;,]+)|\['(?P<key>\w+)'\])"
)


def add_settings(parser: argparse.ArgumentParser, record: Any) -> None:
    """Add a flag for each setting of a record. Flags that are not given are None, positional arguments are absent.

    Args:
        parser: Parser of the command.
        record: Class of the record.
    """
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    flags = flags_of(record)
    for name, declared in settings_of(record).items():
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group)
        default = default_text(declared)
        about = with_flags(f"{declared.help} (default: {default})" if default else declared.help, flags)
        how = read_as(record, name) | {"dest": name, "help": about.replace("%", "%%")}
        groups[declared.group].add_argument(*([flags[name]] if flags[name].startswith("-") else []), **how)


def flags_of(record: Any) -> dict[str, str]:
    """The flag of each setting, or the metavar of a positional argument, by name."""
    return {name: declared.flag or f"--{name.replace('_', '-')}" for name, declared in settings_of(record).items()}


def default_text(declared: Setting) -> str:
    """Describe the default of a setting; empty if it is obvious."""
    obvious = declared.default is None or isinstance(declared.default, bool | list | dict)
    others = [f"{objective}: {value}" for objective, value in declared.by_objective.items()]
    return declared.unset or "; ".join([*([] if obvious else [str(declared.default)]), *others])


def read_as(record: Any, name: str) -> dict[str, Any]:
    """The keyword arguments of argparse for the type of a setting."""
    declared = settings_of(record)[name]
    kinds = [kind for kind in kinds_of(record, name) if kind is not NoneType]
    if declared.flag.isupper():
        return {"metavar": declared.flag, "nargs": "*", "default": argparse.SUPPRESS}
    if bool in kinds:
        return {"action": "store_false" if declared.default else "store_true", "default": None}
    how: dict[str, Any] = {"nargs": "+"} if get_origin(kinds[0]) in (list, Sequence) else {}
    kinds = [*get_args(kinds[0])] if how else kinds
    usual = f"{{{','.join(declared.choices)}}}" if declared.choices else "NAME"
    how["metavar"] = declared.metavar or {int: "N", float: "X"}.get(kinds[-1], usual)
    if get_origin(kinds[0]) is dict:
        return how | {"action": Assign}
    return how | {"type": steps_or_share if len(kinds) > 1 else kinds[0]}


def with_flags(message: str, flags: Mapping[str, str], given: Collection[str] = ()) -> str:
    """Replace the settings that a message of the library names by their flags.

    Args:
        message: Names settings as `name`, name=value or name['key'].
        flags: Flag of each setting.
        given: Settings whose values were given by flags, not by files or defaults; only their values are replaced.
    """

    def flag(found: re.Match[str]) -> str:
        name, key, value = found["name"] or found["given"], found["key"], found["value"]
        if name not in flags or not (found["name"] or name in given):
            return found[0]
        ends = ":" if not found.start() and message.startswith(" must ", found.end()) else ""
        return flags[name] + (f" {key}" if key else f" {value}{ends}" if value else "")

    return _NAMED.sub(flag, message)
