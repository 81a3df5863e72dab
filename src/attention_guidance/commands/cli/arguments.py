"""Arguments and argument types that the commands share."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from attention_guidance.commands.plain import plain
from attention_guidance.commands.streams import discard


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line."""

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


# The fields of `attention_guidance.commands.studies.sample.Text`.
TEXT = ("files", "text_field", "documents", "errors")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for reading text: those of `TEXT` except the files."""
    add = parser.add_argument
    add(
        "--text-field",
        default="text",
        metavar="NAME",
        help="field (.jsonl) or column (tables) of the text (text)",
    )
    add(
        "--documents",
        default="auto",
        help="what one document of a plain text file is: line, blank (text between blank lines), file (auto)",
    )
    add("--errors", default="strict", help="on invalid UTF-8: strict stops, replace continues (strict)")


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
