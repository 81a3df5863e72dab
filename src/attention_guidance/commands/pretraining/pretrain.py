"""`attention-guidance pretrain`: from raw text to a guided encoder."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.progress import ProgressCallback, progress_bars
from attention_guidance.commands.pretraining.loop.shortfalls import UNGUIDED
from attention_guidance.commands.pretraining.loop.signals import StopOnRequest, StopRequest
from attention_guidance.commands.pretraining.matching import with_matched_heads
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.saving.hub import Hub
from attention_guidance.commands.pretraining.settings.checks import check_heads, check_settings
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.pretraining.settings.run_config import seconds_of
from attention_guidance.commands.pretraining.stopped import Stopped
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.setting import for_user
from attention_guidance.commands.workspace import State


@until_done()
@names_batch_size
def pretrain(
    config: RunConfig,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    hub: Hub | None = None,
) -> dict[str, Any]:
    """Pre-train one encoder.

    Args:
        config: Settings of the run.
        output: Folder to write to.
        resume: Continue with the run in the folder, if there is one.
        overwrite: Replace the run in the folder, after the new run has passed all checks; with `resume`, only if it has
            other settings.
        quiet: Print nothing.
        hub: Where to push the model to on the Hugging Face hub, once it is saved.

    Returns:
        The results, as in `results.json`.

    Raises:
        GuidanceError: The input is invalid; nothing was written.
        Stopped: A signal stopped the run.
        DivergedError: The loss, gradients or weights are not finite.
        SaveError: A checkpoint could not be written.
        FailedRunError: The model could not be pushed to the hub.
    """
    if hub is not None:
        hub.check()
    processes.start()
    quiet = quiet or not processes.is_first()
    console = Console(quiet=quiet)

    def say(note: str) -> None:
        console.print(for_user(note))

    folder = RunFolder(output)
    # Only the first process checks the folder.
    state = folder.claim(config, resume=resume, overwrite=overwrite) if processes.is_first() else State.NOTHING
    if processes.of_first(state is State.FINISHED) and (finished := folder.finished) is not None:
        if config != make_config({}, folder.config):
            # Settings may differ if the same text is now at another path.
            folder.check_text(prepare_data(config, say, folder.tokenizer))
        console.print(f"the run in {output} is already finished")
        _report(console, finished, folder)
        _push(hub, folder, console)
        return finished
    check_settings(config, folder)
    if config.heads and not config.guidance_weight:
        say(f"note: {UNGUIDED}")
    stop = StopRequest()
    with progress_bars(console, quiet) as bars:
        clock = None if config.max_time is None else Clock(seconds_of(config.max_time))
        callbacks = [ProgressCallback(bars, "training", quiet, clock), StopOnRequest(stop)]
        # The first process saves the tokenizer in the folder, for the others to load.
        with processes.first_before_others():
            data = prepare_data(config, say, folder.known_tokenizer)
            folder.check_text(data)
            check_heads(config, data.tokenizer)
            if hub is not None and processes.is_first():
                hub.create()  # what the hub refuses is known before anything is written
            config = with_matched_heads(config, data, folder, say)
            run = Run(config, data, folder, callbacks, clock)
        with stop.listening():
            finished_training = run.train()
    if not finished_training:
        raise Stopped(run.trainer.state.global_step, stop.signal or signal.SIGTERM)
    summary = run.finish()
    processes.end()
    _report(console, summary, folder)
    _push(hub, folder, console)
    return summary


def _push(hub: Hub | None, folder: RunFolder, console: Console) -> None:
    if hub is not None and processes.is_first():
        console.print(f"pushed to {hub.push(folder.model)}")


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
    for warning in summary.get("warnings", ()):
        console.print(f"warning: {for_user(warning)}")
    console.print(f"model {folder.path / 'model'}   results {folder.results}")


def figure(value: float | None, form: str, missing: str = "diverged") -> str:
    """Format a number; None and numbers that are not finite become the word for missing values."""
    return missing if value is None or not math.isfinite(value) else form.format(value)


def _guidance_table(guidance: list[dict[str, Any]]) -> Table:
    """A table of distances to the patterns, with a row for each layer and a column for each pattern."""
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
