"""What a fine-tuning leaves: `finetune.json`, predictions, the picture of confusions, the best model, a table."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from attention_guidance import results
from attention_guidance.finetuning.encoding import Encoded
from attention_guidance.finetuning.examples import Data, Example
from attention_guidance.finetuning.fit import FitSettings
from attention_guidance.finetuning.kept import FINETUNE_FILE
from attention_guidance.finetuning.predictions import write_predictions
from attention_guidance.finetuning.runner import Fitted
from attention_guidance.report.finetune_figures import confusion_matrix
from attention_guidance.studies.output import Output
from attention_guidance.training.checkpoints import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def told_split(data: Data) -> str:
    """The split whose scores are told: the test set, or dev without one."""
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
    baseline: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The results, as in `finetune.json`.

    Args:
        model: its name.
        data: the task.
        encoded: what the model was given of it.
        settings: how each fit was done.
        fitted: what came out.
        longest: the most tokens of an item.
        request: see `request_of`.
        notes: what the user should know.
        baseline: the scores without pre-training, if they were asked for.
    """
    told, scored = told_split(data), fitted.scored
    return {
        **results.header("finetune"),
        "model": model,
        "task": data.task.name,
        "metric": data.task.metric,
        "split": told,
        "data": {
            split: {
                "file": data.files[split], "examples": len(data.splits[split]), "cut": item.n_cut,
                "windowed": item.n_windowed, "words_without_tokens": item.n_lost,
            }
            for split, item in encoded.items()
        },
        "labels": list(data.labels),
        "scheme": data.scheme,
        "notes": list(notes),
        "request": request,
        "settings": dataclasses.asdict(settings) | {"max_length": longest},
        "learning_rate": fitted.rate,
        "learning_rates": {f"{rate:g}": score for rate, score in fitted.on_dev.items()},
        "seeds": [
            {
                "seed": seed, "epoch": found.epoch, "dev_by_epoch": found.dev, "seconds": found.seconds,
                "tokens_per_second": found.tokens_per_second,
                **{split: of_split["metrics"] for split, of_split in scored[seed].items()},
            }
            for seed, found in fitted.fits.items()
        ],
        "scores": _summaries([scored[seed][told]["metrics"] for seed in fitted.fits]),
        "baseline": baseline,
        "best_seed": fitted.best_seed,
        "per_class": scored[fitted.best_seed][told]["per_class"],
    }  # fmt: skip


def write(
    folder: Output, found: dict[str, Any], data: Data, fitted: Fitted, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write it all; `finetune.json` last, as it tells that all is there."""
    output, told = folder.folder, told_split(data)
    (output / FINETUNE_FILE).unlink(missing_ok=True)
    for seed, scored in fitted.scored.items():
        for split, of_split in scored.items():
            write_predictions(output, data, split, seed, of_split["predictions"])
    if data.task.kind in ("classify", "tokens"):
        predictions = fitted.scored[fitted.best_seed][told]["predictions"]
        folder.figure("confusion", confusion_matrix(data.labels, *_flat(data.splits[told], predictions)))

    def write_model(target: Path) -> None:
        fitted.fits[fitted.best_seed].model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    write_whole(output / "model", write_model)
    folder.json(FINETUNE_FILE, found)


def _flat(examples: Sequence[Example], predictions: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Gold and predicted numbers, word by word where words are labelled."""
    gold = [example.label for example in examples]
    if gold and isinstance(gold[0], tuple):
        return [number for label in gold for number in label], [number for label in predictions for number in label]
    return gold, list(predictions)


def _summaries(metrics: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | int | None]]:
    return {name: summary([found[name] for found in metrics]) for name in metrics[0]}


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean and standard deviation over seeds, with the 95 % interval of the mean (Student's)."""
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return {"mean": mean, "std": None, "low": None, "high": None, "seeds": n}
    deviation = statistics.stdev(values)
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return {"mean": mean, "std": deviation, "low": mean - half, "high": mean + half, "seeds": n}


def report(console: Console, found: Mapping[str, Any]) -> None:
    """Print the scores."""
    n = len(found["seeds"])
    title = f"{found['model']} on {found['task']}, {found['split']}, {n} seed{'s' * (n > 1)}"
    table = Table(title=f"{title}, learning rate {found['learning_rate']:g}")
    for heading in ("metric", "mean", "std", "95 % interval of the mean"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, score in found["scores"].items():
        several = score["std"] is not None
        table.add_row(
            name, f"{score['mean']:.4f}", f"{score['std']:.4f}" if several else "–",
            f"{score['low']:.4f} to {score['high']:.4f}" if several else "–",
        )  # fmt: skip
    console.print(table)
    if found["baseline"] is not None:
        score = found["baseline"][found["split"]][found["metric"]]
        console.print(
            f"without pre-training ({found['baseline']['model']}): {found['metric']} {score:.4f}", highlight=False
        )
