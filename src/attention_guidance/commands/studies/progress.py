"""Progress bars for the steps of a study, or plain lines if there is no terminal."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attention_guidance.commands.plain import plain
from attention_guidance.commands.printing import Console, Description


class Steps:
    """Context manager that shows the progress of a study.

    Args:
        console: the console to draw on.
        quiet: whether to show nothing.
    """

    def __init__(self, console: Console, quiet: bool) -> None:
        self.console, self.quiet = console, quiet
        done = Description(), BarColumn(bar_width=24), MofNCompleteColumn()
        left = TextColumn("left"), TimeRemainingColumn()
        self.bars = Progress(*done, *left, console=console, disable=quiet or not console.is_terminal)

    def __enter__(self) -> Steps:
        """Start drawing."""
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop drawing."""
        self.bars.stop()

    def begin(self, name: str, total: int | None) -> None:
        """Start the next step, which has `total` parts (None: unknown)."""
        if self.bars.disable:
            self.console.print(plain(name), markup=False, emoji=False, highlight=False)
        self.task = self.bars.add_task(name, total=total)

    def at(self, done: int) -> None:
        """Report that `done` parts of the current step are done."""
        self.bars.update(self.task, completed=done)
