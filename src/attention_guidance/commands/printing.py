"""Print text from outside, such as file names and labels, as data: without markup and terminal sequences.

Commands print through these classes. They show every string unchanged (lines, cells, headings, titles, descriptions of
progress bars), with control characters escaped.
"""

from __future__ import annotations

from typing import Any

import rich.console
import rich.progress
import rich.table
from rich.text import Text

from attention_guidance.commands.plain import plain
from attention_guidance.commands.streams import discard


def lines(*texts: object) -> Text:
    """A cell of several lines."""
    return Text("\n".join(map(plain, texts)))


def _shown(value: Any) -> Any:
    return Text(plain(value)) if isinstance(value, str) else value


class Console(rich.console.Console):
    """A console that prints strings without interpreting them.

    Args:
        quiet: whether to print nothing.
        stderr: whether to print to standard error.
    """

    def __init__(self, *, quiet: bool = False, stderr: bool = False) -> None:
        super().__init__(quiet=quiet, stderr=stderr, markup=False, emoji=False, highlight=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; see `rich.console.Console.print`."""
        super().print(*map(_shown, objects), **options)

    def _check_buffer(self) -> None:
        """Write what was printed. If the terminal, the pipe or the log is lost, print nothing more.

        What commands print is not their result, and no reason to lose hours of training.
        """
        try:
            super()._check_buffer()
        except OSError:
            self._lose()

    def on_broken_pipe(self) -> None:
        """See `_check_buffer`; rich would exit."""
        self._lose()

    def _lose(self) -> None:
        self.quiet = True
        discard(self.file)


class Table(rich.table.Table):
    """A table that shows title, headings and cells without interpreting them; `lines` makes a cell of several lines."""

    def __init__(self, *, title: str, **options: Any) -> None:
        super().__init__(title=_shown(title), **options)

    def add_column(self, header: Any = "", footer: Any = "", **options: Any) -> None:
        """Add a column; see `rich.table.Table.add_column`."""
        super().add_column(_shown(header), _shown(footer), **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row; see `rich.table.Table.add_row`."""
        super().add_row(*map(_shown, cells), **options)


class Description(rich.progress.ProgressColumn):
    """The description column of progress bars, shown without interpreting it."""

    def render(self, task: rich.progress.Task) -> Text:
        """Return the description of a task."""
        return Text(plain(task.description))
