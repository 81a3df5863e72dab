"""`attention-guidance downstream`: fine-tune several models on one task and test their difference."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.candidates import Candidate, candidates, checkpoints_of
from attention_guidance.commands.finetuning.examples.tasks import Task, get_task
from attention_guidance.commands.finetuning.finetune import check, finetune
from attention_guidance.commands.finetuning.fits.kept import check_unchanged, digests
from attention_guidance.commands.finetuning.scoring import outcome
from attention_guidance.commands.finetuning.scoring.paired import difference
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions
from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.report.figures.finetune import score_over_steps
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.workspace import DOWNSTREAM, FINE_TUNING, within

DOWNSTREAM_FILE = DOWNSTREAM.finished


@until_done()
@names_batch_size
def downstream(
    models: Sequence[str],
    settings: FinetuneSettings,
    output: Path,
    *,
    n_checkpoints: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune several models identically and compare each with the first.

    Args:
        models: see `candidates`; the others are compared with the first.
        settings: the task and training settings, the same for all models.
        output: the folder for `downstream.json`, with a folder for the outputs of `finetune` for each model.
        n_checkpoints: also fine-tune up to this many checkpoints of each run, and plot the score over its steps.
        resume: use existing scores and fits of the same models, files and settings.
        overwrite: overwrite existing results.
        quiet: print nothing.

    Returns:
        The comparison, as in `downstream.json`.

    Raises:
        GuidanceError: the input is invalid.
        FailedRunError: training diverged, or a model cannot be saved.
    """
    sides = candidates(models)
    sources = {name: model for side in sides for name, model in side.models.items()}
    of_checkpoints = {name: checkpoints_of(model, n_checkpoints) for name, model in sources.items() if n_checkpoints}
    task = get_task(settings.task)
    folder = Output(output, dataclasses.replace(DOWNSTREAM, begun=_unfinished(sides)))
    folder.claim(
        resume=resume,
        overwrite=overwrite,
        other=lambda: _what_would_be_lost(output / DOWNSTREAM_FILE, task, sides, n_checkpoints),
    )
    console = Console(quiet=quiet)
    for name, model in sources.items():
        # Fail before hours are spent on the models before an unsuitable one.
        check(model, settings, output / name, resume=resume, overwrite=overwrite)

    contents = digests(settings.files)

    def fine_tune(name: str, model: str, settings: FinetuneSettings) -> dict[str, Any]:
        check_unchanged(settings.files, contents)
        return finetune(model, settings, output / name, resume=resume, overwrite=overwrite, quiet=quiet)

    found: dict[str, dict[str, Any]] = {}
    curve = []
    for name, model in sources.items():
        found[name] = fine_tune(name, model, settings)
        same_rate = dataclasses.replace(settings, learning_rates=(found[name]["learning_rate"],), baseline=False)
        for step, loss, source in of_checkpoints.get(name, ()):
            of_step = fine_tune(f"{name}/step-{step}", source, same_rate)["scores"][task.metric]
            curve.append({"model": name, "step": step, "loss": loss} | of_step)
    # The data and the baseline are the same for all.
    shared = next(iter(found.values()))
    combined = all(of_model.get("combined") is not None for of_model in found.values())
    content = {
        **results.header("downstream"),
        "task": task.name,
        "metric": task.metric,
        "split": shared["split"],
        "models": [_model(side, found, task.metric) for side in sides],
        "baseline": shared["baseline"],
        "combined": [_combined(side, found, task.metric) for side in sides] if combined else None,
        "combined_differences": _differences(sides, shared, task, output, settings.seeds_used, combined=True)
        if combined
        else [],
        "differences": _differences(sides, shared, task, output, settings.seeds_used),
        "mismatched_differences": _differences(
            sides, shared | {"split": "mismatched"}, task, output, settings.seeds_used
        )
        if shared["mismatched_scores"]
        else [],
        "checkpoints": curve,
    }
    if curve:
        folder.figure("checkpoints", score_over_steps(content))
    folder.json(DOWNSTREAM_FILE, content)
    report(console, content)
    console.print(f"all results: {output / DOWNSTREAM_FILE}")
    return content


def _unfinished(sides: Iterable[Candidate]) -> tuple[str, ...]:
    """Patterns of the files of an unfinished comparison of these sides, over any seeds, or of a fine-tuning."""
    marks = (FINE_TUNING.finished, *FINE_TUNING.begun)
    folders = {glob.escape(name) for side in sides for name in (side.name, *side.models)}
    folders |= {f"{glob.escape(side.name)}/seed-*" for side in sides}
    return (*marks, *(mark for folder in folders for mark in within(folder, marks)))


def _what_would_be_lost(file: Path, task: Task, sides: Iterable[Candidate], n_checkpoints: int) -> str | None:
    """Describe results that would be lost: another task, or models or checkpoints not in this comparison."""
    if not file.is_file():
        return None
    try:
        content = read_json(file, Any)
        compared = {model["model"] for model in content["models"]}
        ours = content["task"] == task.name and compared <= {side.name for side in sides}
        ours = ours and bool(n_checkpoints or not content["checkpoints"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    return None if ours else f"a {DOWNSTREAM_FILE} of other models, checkpoints or another task; include those too"


def _differences(
    sides: Sequence[Candidate],
    shared: Mapping[str, Any],
    task: Task,
    output: Path,
    seeds: Iterable[int],
    *,
    combined: bool = False,
) -> list[dict[str, Any]]:
    """Differences between each side and the first, computed from the saved predictions."""
    predictions = {
        side.name: [
            read_predictions(output / name, shared["split"], task.kind, seeds, combined=combined)
            for name in side.models
        ]
        for side in sides
    }
    first, *others = predictions
    return [
        {"model": other, "minus": first}
        | outcome.difference_json(
            difference(
                predictions[other], predictions[first], task.metric, task.kind, **outcome.difference_options(shared)
            )
        )
        for other in others
    ]


def _model(side: Candidate, found: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The scores of a side: those of its only run, or over the means of its runs."""
    rates = {name: {"learning_rate": found[name]["learning_rate"]} for name in side.models}
    return _side(side, {name: rates[name] | found[name]["scores"][metric] for name in side.models}, metric)


def _combined(side: Candidate, found: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """The same of a side's models, each combined with the baseline."""
    return _side(side, {name: found[name]["combined"]["scores"][metric] for name in side.models}, metric)


def _side(side: Candidate, scores: Mapping[str, Mapping[str, Any]], metric: str) -> dict[str, Any]:
    runs = [{"run": name, **score} for name, score in scores.items()]
    over = outcome.summary([run["mean"] for run in runs], metric) if len(runs) > 1 else runs[0]
    return {"model": side.name, **{name: over[name] for name in ("mean", "std", "low", "high", "seeds")}, "runs": runs}


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the scores and the differences."""
    first = content["differences"][0]["minus"]
    table = Table(title=f"{content['task']}, {content['metric']} on {content['split']}")
    for heading in ("model", "mean ± std", f"difference to {first} (95 %)"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    _add_rows(table, content["models"], content["differences"], "")
    if content["baseline"] is not None:
        score = content["baseline"][content["split"]][content["metric"]]
        table.add_row("without pre-training", f"{score:.3f}", "")
    if content["combined"] is not None:
        _add_rows(table, content["combined"], content["combined_differences"], ", combined with it")
    console.print(table)
    compared = ("differences", ""), ("combined_differences", ", combined"), ("mismatched_differences", ", mismatched")
    for gaps, where in compared:
        for gap in content[gaps]:
            said = f"{gap['model']} against {first}{where}: {gap['verdict']} (p {gap['p']:.3f})"
            console.print(said)


def _add_rows(table: Table, models: Sequence[Mapping[str, Any]], gaps: Sequence[Mapping[str, Any]], what: str) -> None:
    by_model = {gap["model"]: gap for gap in gaps}
    for model in models:
        gap = by_model.get(model["model"])
        deviation = "" if model["std"] is None else f" ± {model['std']:.3f}"
        shown = "" if gap is None else f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        table.add_row(f"{model['model']}{what}", f"{model['mean']:.3f}{deviation}", shown)
