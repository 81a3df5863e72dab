"""The HTML page of ``attention-guidance recipe``, for readers new to the project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from attention_guidance.commands.report.figures import run as run_figures
from attention_guidance.commands.report.figures.drawing import finite
from attention_guidance.commands.report.figures.svg import to_svg
from attention_guidance.commands.report.page import check_schema, number, percent, render, signed
from attention_guidance.commands.results import write_bytes

Content = Mapping[str, Any]
_TASKS = {"ner": "Finding names", "classify": "Sorting texts"}
_MEASURES = {
    "ner": "F1 of whole entities: 100 means that every name was found, its exact words and its kind, and nothing else",
    "words": "F1 of the labels of single words, the mean over all labels: 100 means that every word got the right one",
    "classify": "accuracy: of 100 texts, how many get the right label",
}
_VERDICTS = {
    "better": "Guidance helps here",
    "worse": "Guidance hurts here",
    "no difference shown": "No difference between guided and unguided is shown",
    "not known from one training": "Whether guidance helps is not known from one training of each",
}


def write_recipe_page(recipe: Content, path: Path) -> None:
    """Write the page of a recipe.

    `attention_guidance.commands.report.page` describes the pages. Equal input gives identical bytes.

    Args:
        recipe: the content of ``recipe.json`` (schema version 1).
        path: the file to write; its folder must exist. Figures of the tasks are read from folders beside it.

    Raises:
        ValueError: the input has another schema.
    """
    check_schema(recipe, "recipe")
    page = render(
        "recipe.html",
        recipe=recipe,
        headline=_headline(recipe),
        tiles=[_text_tile(recipe), _model_tile(recipe), *(_task_tile(*item) for item in recipe["tasks"].items())],
        curves={name: Markup(to_svg(_curves(recipe, size))) for name, size in _SIZES.items()},
        tasks=[_task(name, task, path.parent) for name, task in recipe["tasks"].items()],
        made=_made(recipe),
    )
    write_bytes(path, page)


_SIZES = {"wide": run_figures.Wide, "narrow": run_figures.Narrow}


def _headline(recipe: Content) -> str:
    """Whether pre-training helped, in one sentence."""
    findings = []
    for name, task in recipe["tasks"].items():
        # What is best of what the user can have, which is the two combined where they can be.
        if (gap := (task.get("combined") or task)["over_baseline"]) is None:
            continue
        what, gain = _TASKS[name].lower(), 100 * gap["value"]
        if gap["verdict"] == "no difference shown":
            findings.append(f"{what} shows no difference from a model without pre-training")
            continue
        better = "better" if gain > 0 else "worse"
        single = "" if gap["verdict"] in ("better", "worse") else ", in a single fine-tuning"
        findings.append(f"{what} is {abs(gain):.1f} points {better} than without pre-training{single}")
    if not findings:
        return f"A model of {recipe['corpus']}"
    return f"With the model of {recipe['corpus']}, {' and '.join(findings)}"


def _baseline(task: Content) -> float | None:
    baseline = task["baseline"]
    return None if baseline is None else finite(baseline[task["split"]][task["metric"]])


def _score(task: Content) -> Mapping[str, Any]:
    scores: Mapping[str, Any] = task["scores"][task["metric"]]
    return scores


def _trainings(n: int) -> str:
    return f"mean of {n} trainings" if n > 1 else "of one training"


def _text_tile(recipe: Content) -> dict[str, str]:
    text = recipe["text"]
    left_out = text["repeated"] + text["held_out_lines"]
    size = f"{text['documents']:,} documents, {text['bytes'] / 1e6:.1f} MB."
    return {
        "title": "Words to learn from",
        "value": f"{text['words']:,}",
        "text": size + (f" {left_out:,} repeated or forbidden lines were left out." if left_out else ""),
    }


def _model_tile(recipe: Content) -> dict[str, str]:
    run = recipe["runs"]["guided"]
    return {
        "title": "Hidden words guessed right",
        "value": percent(run["final_accuracy"]),
        "text": f"Pieces of words that were hidden in text it had not seen, after {run['steps']:,} steps, "
        f"{max(1, run['train_seconds'] / 60):,.0f} min of training.",
    }


def _task_tile(name: str, task: Content) -> dict[str, str]:
    baseline, combined = _baseline(task), task.get("combined")
    score = _score(combined | {"metric": task["metric"]} if combined else task)
    beside = "" if baseline is None else f" Without pre-training: {100 * baseline:.1f}."
    if combined:
        beside = f" Pre-trained model alone: {100 * _score(task)['mean']:.1f}.{beside}"
    return {
        "title": _TASKS[name],
        "value": number(100 * score["mean"], 1),
        "text": f"{task['metric'].capitalize()} on the test file, {_trainings(score['seeds'])}.{beside}",
    }


def _interval(gap: Content) -> str:
    """The confidence interval of a difference, in points."""
    return f"95 % interval {signed(100 * gap['low'], 1)} to {signed(100 * gap['high'], 1)}"


def _curves(recipe: Content, size: tuple[float, float]) -> Any:
    runs = [
        {"name": arm, "validation": [(point["step"], point["loss"]) for point in run["curve"]]}
        for arm, run in recipe["runs"].items()
    ]
    return run_figures.curves(runs, "validation", size)


def _task(name: str, task: Content, folder: Path) -> dict[str, Any]:
    """The page's data about one task."""
    picture = folder / task["folder"] / "confusion.svg"
    gap = task["difference"]
    compared = None
    if gap is not None:
        compared = (
            f"{_VERDICTS[gap['verdict']]}: {signed(100 * gap['value'], 1)} points against the same model pre-trained "
            f"without it ({_interval(gap)})."
        )
    return {
        "title": _TASKS[name],
        "measure": _MEASURES["words" if name == "ner" and task["scheme"] is None else name],
        "metric": task["metric"],
        "score": _score(task),
        "baseline": _baseline(task),
        "combined": None if (both := task.get("combined")) is None else both["scores"][task["metric"]],
        "combined_over_baseline": None if both is None else both["over_baseline"],
        "combined_interval": None if both is None else _interval(both["over_baseline"]),
        "over_baseline": None if (over := task["over_baseline"]) is None else _interval(over),
        "baseline_name": None if task["baseline"] is None else task["baseline"]["model"],
        "data": task["data"],
        "notes": task["notes"],
        "per_class": task["per_class"],
        "compared": compared,
        # The width that the cells need.
        "confusion_rem": 8 + 4 * min(len(task["labels"]), 10),
        # Written by this package, with all text escaped.
        "confusion": Markup(picture.read_text(encoding="utf-8").partition("?>")[2]) if picture.is_file() else None,
    }


def _made(recipe: Content) -> list[tuple[str, str]]:
    model = recipe["runs"]["guided"]["model"]
    rows = [
        ("Corpus", recipe["corpus"]),
        ("Model", ", ".join(f"{name} {size:,}" for name, size in model.items() if isinstance(size, int))),
        ("Device", recipe.get("device")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (recipe.get("versions") or {}).items())),
        ("Date", str(recipe.get("date") or "").replace("T", " ").replace("+00:00", " UTC")),
        ("Command", recipe.get("command")),
    ]
    return [(name, str(value)) for name, value in rows if value]
