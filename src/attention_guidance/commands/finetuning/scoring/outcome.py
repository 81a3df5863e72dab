"""Outputs of a fine-tuning: `finetune.json`, predictions, the confusion matrix, the best model and a printed table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.baselines.baseline import Baseline
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.encoding import Encoded
from attention_guidance.commands.finetuning.examples.tasks import get_task, range_of
from attention_guidance.commands.finetuning.fits.kept import FINETUNE_FILE, MODEL_FOLDER, write_fine_tuned
from attention_guidance.commands.finetuning.fits.runner import Fitted
from attention_guidance.commands.finetuning.prediction.card import card
from attention_guidance.commands.finetuning.prediction.saved import Partner, save_task
from attention_guidance.commands.finetuning.scoring.paired import Difference, difference
from attention_guidance.commands.finetuning.scoring.predictions import (
    read_predictions,
    remove_predictions,
    write_predictions,
)
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.report.figures.finetune import confusion_matrix
from attention_guidance.commands.studies.output import Output

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# With more labels the figure would be unreadable and take gigabytes.
_MOST_DRAWN = 100


def reported_split(data: Data) -> str:
    """The split whose scores are reported: test, or dev if there is no test split."""
    return "test" if "test" in data.splits else "dev"


def finetune_json(
    model: str,
    data: Data,
    encoded: Mapping[str, Encoded],
    settings: FitSettings,
    fitted: Fitted,
    *,
    longest: int,
    request: str,
    notes: Sequence[str],
    baseline: Baseline | None,
) -> dict[str, Any]:
    """The results, as in `finetune.json`.

    Args:
        model: name of the model.
        data: the task.
        encoded: its tokenized splits.
        settings: settings of each fit.
        fitted: the scored fits.
        longest: maximum tokens of an item.
        request: see `Request.whole`.
        notes: messages for the user.
        baseline: the model without pre-training, if any.
    """
    reported, scored = reported_split(data), fitted.scored
    return {
        **results.header("finetune"),
        "model": model,
        "task": data.task.name,
        "metric": data.task.metric,
        "split": reported,
        "data": {
            split: {
                "file": data.files[split],
                "examples": len(data.splits[split]),
                "cut": item.n_cut,
                "windowed": item.n_windowed,
                "words_without_tokens": item.n_lost,
            }
            for split, item in encoded.items()
        },
        "labels": list(data.labels),
        "positive_label": data.positive,
        "scheme": data.scheme,
        "notes": list(notes),
        "request": request,
        "settings": dataclasses.asdict(settings) | {"max_length": longest},
        "learning_rate": fitted.rate,
        "learning_rates": {f"{rate:g}": score for rate, score in fitted.on_dev.items()},
        "seeds": [
            {
                "seed": seed,
                "epoch": found.epoch,
                "dev_by_epoch": found.dev,
                "seconds": found.seconds,
                "tokens_per_second": found.tokens_per_second,
                "threshold": found.threshold,
                **{split: of_split["metrics"] for split, of_split in scored[seed].items()},
            }
            for seed, found in fitted.fits.items()
        ],
        "scores": _summaries([scored[seed][reported]["metrics"] for seed in fitted.fits]),
        "mismatched_scores": _summaries([of["mismatched"]["metrics"] for of in scored.values() if "mismatched" in of]),
        "baseline": None if baseline is None else baseline.facts,
        "combined": _combined(fitted, reported),
        "best_seed": fitted.best_seed,
        "per_class": scored[fitted.best_seed][reported]["per_class"],
    }


def write(
    folder: Output,
    found: Mapping[str, Any],
    data: Data,
    fitted: Fitted,
    tokenizer: PreTrainedTokenizerBase,
    baseline: Baseline | None,
) -> dict[str, Any]:
    """Write all outputs; `finetune.json` comes last, since it marks the output as complete.

    Returns:
        The results as written.
    """
    output, reported = folder.path, reported_split(data)
    (output / FINETUNE_FILE).unlink(missing_ok=True)
    remove_predictions(output)
    for seed, scored in fitted.scored.items():
        for split, of_split in scored.items():
            write_predictions(output, data, split, seed, of_split["predictions"])
    for seed, combination in fitted.combined.items():
        for split, predictions in combination.predictions.items():
            write_predictions(output, data, split, seed, predictions, combined=True)
    for suffix in ("svg", "png"):
        (output / f"confusion.{suffix}").unlink(missing_ok=True)
    if data.task.kind in ("classify", "tokens") and len(data.labels) <= _MOST_DRAWN:
        predictions = fitted.scored[fitted.best_seed][reported]["predictions"]
        folder.figure("confusion", confusion_matrix(data.labels, *_flat(data.splits[reported], predictions)))

    best = fitted.combined.get(fitted.best_seed)
    partner = Partner(baseline.model, best.weight) if baseline and best else None

    def write_task(folder: Path) -> None:
        save_task(folder, data, partner)
        results.write_text(folder / "README.md", card(found, data.task.kind, len(data.splits["train"][0].texts)))

    write_fine_tuned(output / MODEL_FOLDER, fitted.model, tokenizer, found["settings"]["max_length"], write_task)
    return write_results(folder, found, data, baseline)


def write_results(folder: Output, found: Mapping[str, Any], data: Data, baseline: Baseline | None) -> dict[str, Any]:
    """Write the predictions of the baseline and `finetune.json`; the other predictions must exist already."""
    for split, predictions in () if baseline is None else baseline.predictions.items():
        write_predictions(folder.path, data, split, None, predictions)
    whole = {**found, "over_baseline": over_baseline(found, folder.path, folder.path)}
    if found.get("combined") is not None:
        whole["combined"] = found["combined"] | {
            "over_baseline": over_baseline(found, folder.path, folder.path, combined=True),
            "over_model": _over_model(found, folder.path),
        }
    folder.json(FINETUNE_FILE, whole)
    return whole


def _combined(fitted: Fitted, split: str) -> dict[str, Any] | None:
    """The encoder combined with the baseline: weights and scores."""
    if not fitted.combined:
        return None
    return {
        "weights": {str(seed): combination.weight for seed, combination in fitted.combined.items()},
        "scores": _summaries([combination.metrics[split] for combination in fitted.combined.values()]),
    }


def _over_model(found: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """The difference between the combined model and the encoder alone, over seeds and examples."""
    kind, seeds = get_task(found["task"]).kind, [seed["seed"] for seed in found["seeds"]]
    both, alone = (read_predictions(output, found["split"], kind, seeds, combined=one) for one in (True, False))
    return difference_json(difference(both, alone, found["metric"], kind, **difference_options(found)))


def over_baseline(
    found: Mapping[str, Any], output: Path, of_baseline: Path, *, combined: bool = False
) -> dict[str, Any] | None:
    """The difference between a model and its baseline without pre-training, over seeds and examples.

    Args:
        found: the model's results, as in `finetune.json`.
        output: folder with the model's predictions.
        of_baseline: folder with the baseline's predictions.
        combined: whether to use the predictions of the model combined with the baseline.

    Returns:
        The difference, or None if there is no baseline.
    """
    if found["baseline"] is None:
        return None
    kind, seeds = get_task(found["task"]).kind, [seed["seed"] for seed in found["seeds"]]
    model = read_predictions(output, found["split"], kind, seeds, combined=combined)
    baseline = read_predictions(of_baseline, found["split"], kind, [None])
    return difference_json(difference(model, baseline, found["metric"], kind, **difference_options(found)))


def difference_options(found: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `difference` that describe the task, from the results in `finetune.json`."""
    return {"labels": found["labels"], "entities": found["scheme"] is not None}


def difference_json(gap: Difference) -> dict[str, Any]:
    """A difference as in `finetune.json` and `downstream.json`."""
    return dataclasses.asdict(gap) | {"verdict": gap.verdict}


def _flat(examples: Sequence[Example], predictions: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Gold and predicted label indices, of each word if words are labelled."""
    gold = [example.label for example in examples]
    if gold and isinstance(gold[0], tuple):
        return [number for label in gold for number in label], [number for label in predictions for number in label]
    return gold, list(predictions)


def _summaries(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | int | None]]:
    return {name: summary([found[name] for found in metrics], name) for name in (metrics[0] if metrics else ())}


def summary(values: Sequence[float], metric: str) -> dict[str, float | int | None]:
    """Mean and standard deviation over seeds, with the 95 % interval of the mean (Student's).

    The interval is clipped to the range of the metric: with few seeds, Student's would contain impossible scores.
    """
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return {"mean": mean, "std": None, "low": None, "high": None, "seeds": n}
    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    least, most = range_of(metric)
    ends = {"low": max(least, mean - half), "high": min(most, mean + half)}
    return {"mean": mean, "std": deviation, **ends, "seeds": n}


def report(console: Console, found: Mapping[str, Any]) -> None:
    """Print the scores."""
    n = len(found["seeds"])
    title = f"{found['model']} on {found['task']}, {found['split']}, {n} seed{'s' * (n > 1)}"
    table = Table(title=f"{title}, learning rate {found['learning_rate']:g}")
    for heading in ("metric", "mean", "std", "95 % interval of the mean"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    shown = {
        name + (f" (of {found['positive_label']})" if name == "f1" and found["positive_label"] else ""): score
        for name, score in found["scores"].items()
    }
    shown |= {f"{name}, mismatched": score for name, score in found["mismatched_scores"].items()}
    for name, score in shown.items():
        several = score["std"] is not None
        table.add_row(
            name,
            f"{score['mean']:.4f}",
            f"{score['std']:.4f}" if several else "–",
            f"{score['low']:.4f} to {score['high']:.4f}" if several else "–",
        )
    console.print(table)
    if found["baseline"] is not None:
        score = found["baseline"][found["split"]][found["metric"]]
        name = f"without pre-training ({found['baseline']['model']})"
        console.print(f"{name}: {found['metric']} {score:.4f}; {_gap('this model', found)}")
    if found.get("combined") is not None:
        score = found["combined"]["scores"][found["metric"]]["mean"]
        said = _gap("both together", found["combined"])
        console.print(f"combined with it: {found['metric']} {score:.4f}; {said}")


def _gap(name: str, found: Mapping[str, Any]) -> str:
    gap = found["over_baseline"]
    return f"{name} minus it: {gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f}), {gap['verdict']}"
