"""What the commands' arguments are made of."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with code 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def add_command(commands: Any, name: str, summary: str, description: str, run: Any) -> argparse.ArgumentParser:
    """A command that writes to a folder, its description laid out as it is written.

    Args:
        commands: the subparsers.
        name: of the command.
        summary: one line for the list of commands.
        description: what its own help begins with.
        run: called with the arguments; gives the exit code.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument("--overwrite", action="store_true", help="replace what this command has written there before")
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where results go, and what is printed."""
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder to write to; nothing in it is overwritten")
    add("-q", "--quiet", action="store_true", help="print nothing but errors")


# The fields of `attention_guidance.commands.studies.sample.Text`.
TEXT = ("files", "text_field", "documents", "errors")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How text is read: `TEXT` but for the files."""
    add = parser.add_argument
    add("--text-field", default="text", metavar="NAME", help="field of .jsonl, column of a table with the text (text)")
    add(
        "--documents",
        default="auto",
        help="a document of a plain file is a: line, blank (-line separated), file (auto)",
    )
    add("--errors", default="strict", help="on invalid UTF-8: strict stops, replace goes on (strict)")


def fail(error: object, code: int) -> int:
    """Say what went wrong in one line, once where several processes find it; gives the code to exit with."""
    if os.environ.get("RANK", "0") != "0":
        return code
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


class Assign(argparse.Action):
    """Collects NAME=VALUE pairs in a mapping; values of --set are read as YAML, those of --token-class as words."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """See argparse.Action."""
        import yaml

        name, equals, value = str(values).partition("=")
        if not equals or not name:
            raise argparse.ArgumentError(self, f"expected {self.metavar}, got {values!r}")
        try:
            parsed = value.split() if self.dest == "token_classes" else yaml.safe_load(value)
        except yaml.YAMLError:
            raise argparse.ArgumentError(self, f"cannot read the value of {values!r}") from None
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | {name: parsed})


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def seed(text: str) -> int:
    """A whole number that every generator takes."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0 to {2**32 - 1}")
    return int(text)


def steps_or_share(text: str) -> int | float:
    """Steps, or a share of the run."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be steps (200) or a share of the run (0.2)") from None
