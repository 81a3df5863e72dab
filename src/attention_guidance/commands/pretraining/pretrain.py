"""`attention-guidance pretrain`: from raw text to a guided encoder."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.progress import ProgressCallback, progress_bars
from attention_guidance.commands.pretraining.loop.signals import StopOnRequest, StopRequest
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.checks import check_heads, check_settings
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.pretraining.settings.run_config import seconds_of
from attention_guidance.commands.workspace import State


class Stopped(Exception):
    """The run was asked to stop, saved a checkpoint and can be resumed.

    Attributes:
        signal: the number of the signal that asked.
    """

    def __init__(self, step: int, number: int) -> None:
        self.signal = number
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} after step {step}, checkpoint saved; the same command with --resume goes on"
        )


@until_done()
def pretrain(
    config: RunConfig, output: Path, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Pre-train one encoder.

    Args:
        config: the run.
        output: its folder.
        resume: go on with the run in that folder, if there is one.
        overwrite: replace the run in that folder, once nothing is wrong with this one; with `resume`, a run of other
            settings.
        quiet: print nothing.

    Returns:
        The results, as in the folder's `results.json`.

    Raises:
        GuidanceError: bad input, before anything is written.
        Stopped: a signal asked to stop.
        DivergedError: loss, gradients or weights are not finite.
        SaveError: a checkpoint could not be written.
    """
    processes.start()
    quiet = quiet or not processes.is_first()
    console = Console(quiet=quiet, markup=False)
    folder = RunFolder(output)
    # The first looks for all.
    state = folder.claim(config, resume=resume, overwrite=overwrite) if processes.is_first() else State.NOTHING
    if processes.of_first(state is State.FINISHED) and (finished := folder.finished) is not None:
        if config != make_config({}, folder.config):
            # A text that has moved is no other one.
            folder.check_text(prepare_data(config, console.print, folder.tokenizer))
        console.print(f"the run in {output} has ended already")
        _report(console, finished, folder)
        return finished
    check_settings(config, folder)
    stop = StopRequest()
    with progress_bars(console, quiet) as bars:
        clock = None if config.max_time is None else Clock(seconds_of(config.max_time))
        callbacks = [ProgressCallback(bars, "training", quiet, clock), StopOnRequest(stop)]
        # The first process leaves the tokenizer in the folder for the others.
        with processes.first_before_others():
            data = prepare_data(config, console.print, folder.known_tokenizer)
            folder.check_text(data)
            check_heads(config, data.tokenizer)
            run = Run(config, data, folder, callbacks, clock)
        with stop.listening():
            ended = run.train()
    if not ended:
        raise Stopped(run.trainer.state.global_step, stop.signal or signal.SIGTERM)
    summary = run.finish()
    processes.end()
    _report(console, summary, folder)
    return summary


def _report(console: Console, summary: dict[str, Any], folder: RunFolder) -> None:
    table = Table(title=f"Validation after {summary['steps']:,} steps", show_header=False)
    in_nats = summary["final_accuracy"] is not None
    table.add_row("loss", figure(summary["final_loss"], "{:.3f} nats" if in_nats else "{:.3f}"))
    if summary.get("gives_perplexity", True):
        table.add_row("perplexity", figure(summary["final_perplexity"], "{:.1f}"))
    if summary["final_accuracy"] is not None:
        table.add_row(f"{summary.get('predicts', 'masked tokens')} right", figure(summary["final_accuracy"], "{:.1%}"))
    for name, value in summary.get("final_means", {}).items():
        table.add_row(name.replace("_", " "), figure(value, "{:.3f}"))
    if summary.get("skipped_steps"):
        table.add_row("steps skipped (loss or gradient not finite)", f"{summary['skipped_steps']:,}")
    console.print(table)
    if summary["guidance"]:
        console.print(_guidance_table(summary["guidance"]))
    console.print(f"model {folder.path / 'model'}   results {folder.results}", highlight=False)


def figure(value: float | None, form: str, missing: str = "diverged") -> str:
    """A figure as text; the word for what is missing instead of None or a number that is not finite."""
    return missing if value is None or not math.isfinite(value) else form.format(value)


def _guidance_table(guidance: list[dict[str, Any]]) -> Table:
    """Distance to the pattern, a row a layer, a column a pattern."""
    table = Table(title="Guided heads: squared error to their pattern (0 = on it), mean over its heads")
    patterns = list(dict.fromkeys(head["pattern"] for head in guidance))
    for heading in ("layer", *patterns):
        table.add_column(heading, justify="right")
    for layer in sorted({head["layer"] for head in guidance}):
        cells = []
        for pattern in patterns:
            errors = [h["error"] for h in guidance if h["layer"] == layer and h["pattern"] == pattern]
            known = all(error is not None for error in errors)
            cells.append(figure(sum(errors) / len(errors) if known else None, "{:.3f}") if errors else "")
        table.add_row(str(layer), *cells)
    return table
