"""`attention-guidance downstream`: several models on one task, and whether their difference is shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention_guidance import results
from attention_guidance.errors import ConfigError
from attention_guidance.finetuning.finetune import FINETUNE_FILE, FinetuneSettings, finetune
from attention_guidance.finetuning.paired import Predictions, difference
from attention_guidance.finetuning.tasks import get_task
from attention_guidance.studies.models import names_of
from attention_guidance.studies.output import Output

DOWNSTREAM_FILE = "downstream.json"


def downstream(
    models: Sequence[str],
    settings: FinetuneSettings,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune several models alike and compare each with the first.

    Args:
        models: folders of models or runs, or names on the hub; the first is what the others are compared with.
        settings: the task and how, the same for all.
        output: the folder for `downstream.json`, and a folder for each model with what `finetune` writes.
        resume: take the results of models that are there already with the same settings.
        overwrite: replace what is there.
        quiet: print nothing.

    Returns:
        The comparison, as in `downstream.json`.

    Raises:
        GuidanceError: bad input.
    """
    if len(models) < 2:
        raise ConfigError("one model has nothing to be compared with; give two or more")
    names = names_of(models)
    folder = Output(output, DOWNSTREAM_FILE, overwrite or resume)
    console = Console(quiet=quiet)
    task = get_task(settings.task)
    found: dict[str, dict[str, Any]] = {}
    for name, model in zip(names, models, strict=True):
        # The baseline is the same for all: the first model's run fits it.
        of_model = dataclasses.replace(settings, baseline=settings.baseline and name == names[0])
        there = _same(output / name, settings) if resume else None
        if there is not None:
            console.print(f"{name}: scored already", highlight=False)
        found[name] = there or finetune(
            model, of_model, output / name, overwrite=overwrite or resume, quiet=quiet
        )  # fmt: skip
    split = next(iter(found.values()))["split"]
    predictions = {name: read_predictions(output / name, split, task.kind) for name in names}
    first, *others = names
    content = {
        **results.header("downstream"),
        "task": task.name,
        "metric": task.metric,
        "split": split,
        "models": [
            {"model": name, "learning_rate": found[name]["learning_rate"], **found[name]["scores"][task.metric]}
            for name in names
        ],
        "baseline": found[names[0]]["baseline"],
        "differences": [
            {"model": other, "minus": first}
            | dataclasses.asdict(gap := difference(predictions[other], predictions[first], task.metric, task.kind))
            | {"verdict": gap.verdict}
            for other in others
        ],
    }
    folder.json(DOWNSTREAM_FILE, content)
    report(console, content)
    console.print(f"every figure: {output / DOWNSTREAM_FILE}", highlight=False)
    return content


def _same(folder: Path, settings: FinetuneSettings) -> dict[str, Any] | None:
    """The results in a folder, if they are of these settings."""
    try:
        content: dict[str, Any] = json.loads((folder / FINETUNE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    seeds = [seed["seed"] for seed in content["seeds"]]
    fit = {name: value for name, value in content["settings"].items() if name != "max_length"}
    same = (
        content["task"] == settings.task
        and seeds == list(range(settings.seed, settings.seed + settings.seeds))
        and fit == dataclasses.asdict(settings.fit)
        and {split: item["file"] for split, item in content["data"].items()}
        == {"dev": settings.files["train"].name} | {split: file.name for split, file in settings.files.items()}
    )
    return content if same else None


def read_predictions(folder: Path, split: str, kind: str) -> Predictions:
    """The predictions that `finetune` has written, of all seeds.

    Raises:
        ConfigError: there are none.
    """
    suffix = "txt" if kind == "tokens" else "tsv"
    files = sorted((folder / "predictions").glob(f"{split}-seed-*.{suffix}"), key=lambda file: (len(file.name), file))
    if not files:
        raise ConfigError(f"{folder}: no predictions of {split} there")
    read = [_read_tokens(file) if kind == "tokens" else _read_rows(file, kind) for file in files]
    return Predictions(read[0][0], tuple(predicted for _, predicted in read))


def _read_tokens(file: Path) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    gold, predicted = [], []
    for block in file.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.rsplit(" ", 2) for line in block.splitlines() if line]
        gold.append(tuple(row[1] for row in rows))
        predicted.append(tuple(row[2] for row in rows))
    return tuple(gold), tuple(predicted)


def _read_rows(file: Path, kind: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def value(text: str) -> Any:
        if kind == "regress":
            return float(text)
        return tuple(label for label in text.split("|") if label) if kind == "multilabel" else text

    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n")[1:] if line]
    return tuple(value(row[-2]) for row in rows), tuple(value(row[-1]) for row in rows)


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the scores and the differences."""
    first = content["differences"][0]["minus"]
    table = Table(title=f"{content['task']}, {content['metric']} on {content['split']}")
    for heading in ("model", "mean ± std", f"difference to {first} (95 %)"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    gaps = {gap["model"]: gap for gap in content["differences"]}
    for model in content["models"]:
        gap = gaps.get(model["model"])
        deviation = "" if model["std"] is None else f" ± {model['std']:.3f}"
        shown = "" if gap is None else f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
        table.add_row(model["model"], f"{model['mean']:.3f}{deviation}", shown)
    if content["baseline"] is not None:
        score = content["baseline"][content["split"]][content["metric"]]
        table.add_row("without pre-training", f"{score:.3f}", "")
    console.print(table)
    for gap in content["differences"]:
        console.print(f"{gap['model']} against {first}: {gap['verdict']} (p {gap['p']:.3f})", highlight=False)
