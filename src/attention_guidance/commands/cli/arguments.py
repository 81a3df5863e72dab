"""Arguments and argument types that the commands share."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attention_guidance.commands.plain import plain
from attention_guidance.commands.streams import discard
from attention_guidance.errors import ConfigError

# From here on, a flag looks like a misspelling of another, not like another flag.
_ALIKE = 0.7


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line. It takes no abbreviations: `--text` is not `--text-field`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse what the parser does not know, while it still knows what was meant."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), unknown[0])
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(flag)}")
        return found, unknown

    def _meant(self, flag: str) -> str:
        """The flags that begin with it, or the one that is most like it."""
        name, flags = flag.partition("=")[0], [*self._option_string_actions]
        longer = [other for other in flags if other.startswith(name)] if name.strip("-") else []
        like = longer[:3] or difflib.get_close_matches(name, flags, n=1, cutoff=_ALIKE)
        return f"; did you mean {' or '.join(like)}?" if like else ""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"error: {plain(message)} (see {self.prog} --help)\n")


def add_command(commands: Any, name: str, summary: str, description: str, run: Any) -> argparse.ArgumentParser:
    """Add a command that writes to a folder.

    Args:
        commands: The subparsers.
        name: Name of the command.
        summary: One line for the list of commands.
        description: Start of the command's help, printed without reflowing.
        run: Called with the arguments; returns the exit code.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument("--overwrite", action="store_true", help="replace existing output of this command")
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the output folder and for printing."""
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder to write to; its files are kept without --overwrite")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")


#: The arguments of `add_reading`.
READING = ("text_field", "documents", "errors")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for reading text; None if they are not given, see `text_of`."""
    add = parser.add_argument
    add("--text-field", metavar="NAME", help="field (.jsonl) or column (tables) of the text (text)")
    add(
        "--documents",
        help="what one document of a plain text file is: line, blank (text between blank lines), file (auto)",
    )
    add("--errors", help="on invalid UTF-8: strict stops, replace continues (strict)")


def text_of(arguments: dict[str, Any], name: str = "CORPUS") -> Any:
    """Take the argument `files` and those of `add_reading`, and return them as a `Text`.

    Args:
        arguments: The arguments; those taken are removed.
        name: What the command calls the files.

    Raises:
        ConfigError: Without files, an argument of `add_reading` was given.
    """
    from attention_guidance.commands.studies.sample import Text

    files = arguments.pop("files")
    if not files:
        check_idle(arguments, READING, f"a text given as {name}")
    reading = given({name: arguments.pop(name) for name in READING})
    return Text(files, **reading)


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that were given: those that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def check_idle(arguments: Mapping[str, Any], idle: Iterable[str], use: str) -> None:
    """Check that no argument was given that would do nothing.

    Args:
        arguments: The arguments; None for those that were not given.
        idle: Those that would do nothing.
        use: What they are for.

    Raises:
        ConfigError: One was given.
    """
    for name in idle:
        if arguments[name] is not None:
            raise ConfigError(f"`{name}` is for {use}; leave it out")


def fail(error: object, code: int) -> int:
    """Print an error as one line, in rank 0 only, and return the exit code."""
    if os.environ.get("RANK", "0") != "0":
        return code
    try:
        print(f"error: {plain(' '.join(str(error).split()))}", file=sys.stderr)
    except OSError:  # the terminal was closed
        discard(sys.stderr)
    return code


class Assign(argparse.Action):
    """Collect NAME=VALUE pairs in a mapping; parse values as YAML for --set, as words for --token-class."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """See argparse.Action."""
        from attention_guidance.commands.reading.yaml_text import parse_yaml

        name, equals, value = str(values).partition("=")
        if not equals or not name:
            raise argparse.ArgumentError(self, f"expected {self.metavar}, got {values!r}")
        try:
            parsed = value.split() if self.dest == "token_classes" else parse_yaml(value)
        except ValueError:
            raise argparse.ArgumentError(self, f"cannot read the value of {values!r}") from None
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | {name: parsed})


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of at least 1")
    return int(text)


def seed(text: str) -> int:
    """Parse a seed that every random generator accepts."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer from 0 to {2**32 - 1}")
    return int(text)


def steps_or_share(text: str) -> int | float:
    """Parse a number of steps, or a share of the run."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be steps (200) or a share of the run (0.2)") from None
