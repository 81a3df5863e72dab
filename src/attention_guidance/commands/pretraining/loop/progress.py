"""What a person sees while a run trains: a bar with loss, guidance and time left, or plain lines in a log file."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from attention_guidance.commands.pretraining.loop.clock import Clock

_SHOWN = {
    "loss": "loss {:.3f}",
    "guidance": "guidance {:.3f}",
    "eval_loss": "validation {:.3f}",
    "skipped_steps": "skipped {:.0f}",
}
# Beside a bar, so that all of it fits into 80 columns.
_SHORT = {
    "loss": "loss {:.2f}",
    "guidance": "guidance {:.2f}",
    "eval_loss": "val {:.2f}",
    "skipped_steps": "skipped {:.0f}",
}


def progress_bars(console: Console, quiet: bool) -> Progress:
    """The bars of one or several runs; nothing is drawn when quiet or when the output is no terminal."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),  # where room is short, the bar alone gives way
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=quiet or not console.is_terminal,
    )


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Moves a run's bar; prints a line a validation where there is no terminal.

    Args:
        bars: the bars to add to.
        label: what the run is called.
        quiet: print nothing.
        clock: that of a run which goes by it; the bar then counts seconds.
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
        """Draw the bar, where the run stands."""
        total = state.max_steps if self.clock is None else round(self.clock.budget)
        self.task = self.bars.add_task(self.label, total=total, completed=self._done(state), figures="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
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
        """Show the newest figures."""
        logs = logs or {}
        self.figures.update({name: logs[name] for name in _SHOWN if name in logs})
        self.bars.update(self.task, figures=self._text(_SHORT))
        if self.lines is not None and "eval_loss" in logs:
            shown = self._text(_SHOWN)
            of = f"/{state.max_steps}" if self.clock is None else f" ({self.clock.progress:.0%} of the time)"
            self.lines.print(f"{self.label}  step {state.global_step}{of}  {shown}", highlight=False)

    def _text(self, forms: dict[str, str]) -> str:
        return "  ".join(forms[name].format(value) for name, value in self.figures.items())
