"""`attention-guidance pretrain`: from raw text to a guided encoder."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention_guidance.training.config import RunConfig
from attention_guidance.training.prepare import prepare_data
from attention_guidance.training.progress import ProgressCallback, progress_bars
from attention_guidance.training.run import Run, RunFolder
from attention_guidance.training.signals import StopOnRequest, StopRequest


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


def pretrain(config: RunConfig, output: Path, *, resume: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Pre-train one encoder.

    Args:
        config: the run.
        output: its folder.
        resume: go on with the run in that folder, if there is one.
        quiet: print nothing.

    Returns:
        The results, as in the folder's `results.json`.

    Raises:
        GuidanceError: bad input, before anything is written.
        Stopped: a signal asked to stop.
        SaveError: a checkpoint could not be written.
    """
    console = Console(quiet=quiet)
    folder = RunFolder(output)
    folder.claim(config, resume)
    if (finished := folder.finished) is not None:
        console.print(f"the run in {output} has ended already")
        _report(console, finished, folder)
        return finished
    data = prepare_data(config, console.print, folder.tokenizer)
    stop = StopRequest()
    with progress_bars(console, quiet) as bars:
        run = Run(config, data, folder, [ProgressCallback(bars, "training", quiet), StopOnRequest(stop)])
        folder.begin(config, data)
        with stop.listening():
            ended = run.train()
    if not ended:
        raise Stopped(run.trainer.state.global_step, stop.signal or signal.SIGTERM)
    summary = run.finish()
    _report(console, summary, folder)
    return summary


def _report(console: Console, summary: dict[str, Any], folder: RunFolder) -> None:
    table = Table(title=f"Validation after {summary['steps']:,} steps", show_header=False)
    table.add_row("loss", f"{summary['final_loss']:.3f} nats")
    table.add_row("perplexity", f"{summary['final_perplexity']:.1f}")
    table.add_row("masked tokens right", f"{summary['final_accuracy']:.1%}")
    console.print(table)
    if summary["guidance"]:
        console.print(_guidance_table(summary["guidance"]))
    console.print(f"model {folder.path / 'model'}   results {folder.results}", highlight=False)


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
            cells.append(f"{sum(errors) / len(errors):.3f}" if errors else "")
        table.add_row(str(layer), *cells)
    return table
