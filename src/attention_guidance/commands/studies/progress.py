"""A bar for the steps of a study, or plain lines where there is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Shows the steps of a study as they go: a context manager.

    Args:
        console: where to.
        quiet: show nothing.
    """

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, disable=quiet or not console.is_terminal,
        )  # fmt: skip

    def __enter__(self) -> Steps:
        """Begin to draw."""
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End."""
        self.bars.stop()

    def begin(self, name: str, total: int | None) -> None:
        """The next step, of so many parts (None: not known)."""
        if self.bars.disable:
            self.console.print(name, highlight=False)
        self.task = self.bars.add_task(name, total=total)

    def at(self, done: int) -> None:
        """So many parts of the step are done."""
        self.bars.update(self.task, completed=done)
