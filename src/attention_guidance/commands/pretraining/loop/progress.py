"""Show training progress: a bar with loss, guidance and remaining time, or plain lines in a log file."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.printing import Console, Description

_SHOWN = {
    "loss": "loss {:.3f}",
    "guidance": "guidance {:.3f}",
    "eval_loss": "validation {:.3f}",
    "skipped_steps": "skipped {:.0f}",
}
# Shorter forms, so that a bar with its metrics fits into 80 columns.
_SHORT = {
    "loss": "loss {:.2f}",
    "guidance": "guidance {:.2f}",
    "eval_loss": "val {:.2f}",
    "skipped_steps": "skipped {:.0f}",
}


def progress_bars(console: Console, quiet: bool) -> Progress:
    """Create the progress bars of one or several runs; disabled if quiet, or if the output is not a terminal."""
    return Progress(
        Description(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),  # in a narrow terminal, only the bar shrinks
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Update the progress bar of a run; without a terminal, print a line for each validation.

    Args:
        bars: The progress bars to add to.
        label: Name of the run.
        quiet: Print nothing.
        clock: Clock of a run with a time limit; the bar then counts seconds.
    """

    def __init__(self, bars: Progress, label: str, quiet: bool, clock: Clock | None = None) -> None:
        self.clock = clock
        self.bars = bars
        self.label = label
        self.lines = bars.console if bars.disable and not quiet else None
        self.figures: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Add the bar, at the current step."""
        total = state.max_steps if self.clock is None else round(self.clock.budget)
        self.task = self.bars.add_task(self.label, total=total, completed=self._done(state), figures="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the bar."""
        self.bars.update(self.task, completed=self._done(state))

    def _done(self, state: TrainerState) -> int:
        return state.global_step if self.clock is None else int(self.clock.elapsed)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the latest metrics."""
        logs = logs or {}
        self.figures.update({name: logs[name] for name in _SHOWN if name in logs})
        self.bars.update(self.task, figures=self._text(_SHORT))
        if self.lines is not None and "eval_loss" in logs:
            shown = self._text(_SHOWN)
            of = f"/{state.max_steps}" if self.clock is None else f" ({self.clock.progress:.0%} of the time)"
            self.lines.print(f"{self.label}  step {state.global_step}{of}  {shown}")

    def _text(self, forms: dict[str, str]) -> str:
        return "  ".join(forms[name].format(value) for name, value in self.figures.items())
