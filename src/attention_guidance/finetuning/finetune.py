"""`attention-guidance finetune`: a downstream score of any encoder, over seeds, chosen on dev, test touched once."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from attention_guidance import results
from attention_guidance.errors import ConfigError, RunError
from attention_guidance.finetuning.baseline import fit_baseline
from attention_guidance.finetuning.encoding import Encoded, decode, encode
from attention_guidance.finetuning.examples import Data, Example, read_examples
from attention_guidance.finetuning.fit import Fit, FitSettings, fit, predict
from attention_guidance.finetuning.kept import FINETUNE_FILE, KeptFits, finished, is_begun, request_of
from attention_guidance.finetuning.predictions import write_predictions
from attention_guidance.finetuning.scores import evaluate, per_class
from attention_guidance.finetuning.splits import SPLITS
from attention_guidance.finetuning.tasks import get_task
from attention_guidance.report.finetune_figures import confusion_matrix
from attention_guidance.studies.models import longest_sequence, subjects
from attention_guidance.studies.output import Output
from attention_guidance.studies.progress import Steps
from attention_guidance.training.checkpoints import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Small encoders want larger steps than those of the papers, which are of a hidden width of 768 and more.
_SMALL = 512
_LEARNING_RATES = {True: (2e-4, 5e-4, 1e-3), False: (1e-5, 3e-5, 5e-5)}


@dataclass(frozen=True)
class FinetuneSettings:
    """What is learnt, and how often.

    Attributes:
        task: its name, see `attention_guidance.finetuning.tasks`.
        files: by split, see `read_examples`.
        columns: of tables, see `read_examples`.
        repair: see `read_tagged`.
        learning_rates: to choose from; by the width of the model without.
        seeds: how many fine-tunings are scored.
        seed: the first of them.
        max_length: the most tokens of an item; what the model takes without.
        baseline: fit a model without pre-training as well.
        fit: all else.
    """

    task: str
    files: Mapping[str, Path]
    columns: Sequence[str] | None = None
    repair: bool = False
    learning_rates: Sequence[float] = ()
    seeds: int = 5
    seed: int = 1
    max_length: int | None = None
    baseline: bool = True
    fit: FitSettings = dataclasses.field(default_factory=FitSettings)

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: must be at least 1")
        if not 0 <= self.seed <= self.seed + self.seeds - 1 < 2**32:
            raise ConfigError(f"--seed {self.seed}: with {self.seeds} seeds must be 0 or more and stay below 2**32")
        for rate in self.learning_rates:
            if not 0 < rate < 1:
                raise ConfigError(f"--learning-rates {rate:g}: must lie between 0 and 1")

    @property
    def seeds_used(self) -> range:
        """The seeds that are scored."""
        return range(self.seed, self.seed + self.seeds)


def finetune(
    model: str,
    settings: FinetuneSettings,
    output: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune an encoder over seeds and score it.

    The learning rate is chosen on the development set with the first seed, the epoch of each fine-tuning too; the test
    set is predicted once a seed, by the model so chosen.

    Args:
        model: folder of a model or of a run, or a name on the hub.
        settings: the task and how.
        output: the folder for `finetune.json`, predictions, the picture of confusions, and the model of the seed that
            is best on dev.
        resume: take what is there of the same model, files and settings: the scores, or else the fits so far.
        overwrite: replace what is there; with `resume`, what is of others.
        quiet: print nothing.

    Returns:
        The results, as in `finetune.json`.

    Raises:
        GuidanceError: bad input.
    """
    goes_on = resume and (is_begun(output) or (output / FINETUNE_FILE).is_file())
    folder = Output(output, FINETUNE_FILE, overwrite or goes_on)
    console = Console(quiet=quiet)
    task = get_task(settings.task)
    subject = subjects(model)[0]
    tokenizer = subject.tokenizer()
    data = read_examples(task, settings.files, columns=settings.columns, repair=settings.repair)
    if (output / "model").resolve() == Path(subject.source).resolve():
        raise RunError(f"--output {output}: its model is the one that is fine-tuned; give another folder")
    request = request_of(subject.source, settings)
    there = finished(output, request, with_baseline=settings.baseline, overwrite=overwrite) if resume else None
    if there is not None:
        console.print(f"{output.name}: scored already", highlight=False)
        return there
    for note in data.notes:
        console.print(note, highlight=False)
    encoder = subject.load()
    limit, width = longest_sequence(encoder, tokenizer), getattr(encoder.config, "hidden_size", _SMALL + 1)
    del encoder
    if settings.max_length is not None and settings.max_length > limit:
        raise ConfigError(f"--max-length {settings.max_length}: this model takes at most {limit} tokens")
    longest = settings.max_length or limit
    encoded = {
        split: encode(data, examples, tokenizer, longest, overlap=split != "train")
        for split, examples in data.splits.items()
    }
    rates = [*map(float, settings.learning_rates)] or list(_LEARNING_RATES[width < _SMALL])
    with Steps(console, quiet) as steps:
        kept = KeptFits(output, request, resume=resume)
        runner = _Runner(data, encoded, subject.source, tokenizer, settings.fit, steps, kept)
        tried = {rate: runner.fit(rate, settings.seed) for rate in rates}
        on_dev = {rate: _best(found, task.metric) for rate, found in tried.items()}
        rate = max(on_dev, key=lambda rate: on_dev[rate])
        notes = [*data.notes, *_at_the_end(on_dev)]
        for note in notes[len(data.notes) :]:
            console.print(note, highlight=False)
        fits = {settings.seed: tried[rate]}
        for seed in settings.seeds_used[1:]:
            fits[seed] = runner.fit(rate, seed)
        scored = {seed: runner.score(seed, fits[seed]) for seed in fits}
        baseline = None
        if settings.baseline:
            steps.begin("baseline without pre-training", None)
            try:
                baseline = fit_baseline(data)
            except ValueError as error:  # a single label in training, texts without a character
                notes.append(f"no model without pre-training could be fitted ({error})")
                console.print(notes[-1], highlight=False)
    best_seed = max(fits, key=lambda seed: _best(fits[seed], task.metric))
    told = "test" if "test" in data.splits else "dev"
    content = {
        **results.header("finetune"),
        "model": subject.name,
        "task": task.name,
        "metric": task.metric,
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
        "notes": notes,
        "request": request,
        "settings": dataclasses.asdict(settings.fit) | {"max_length": longest},
        "learning_rate": rate,
        "learning_rates": {f"{tried_rate:g}": score for tried_rate, score in on_dev.items()},
        "seeds": [
            {
                "seed": seed, "epoch": found.epoch, "dev_by_epoch": found.dev, "seconds": found.seconds,
                "tokens_per_second": found.tokens_per_second,
                **{split: scored[seed][split]["metrics"] for split in scored[seed]},
            }
            for seed, found in fits.items()
        ],
        "scores": _summaries([scored[seed][told]["metrics"] for seed in fits]),
        "baseline": baseline,
        "best_seed": best_seed,
        "per_class": scored[best_seed][told]["per_class"],
    }  # fmt: skip
    # Last of all, as it tells that all is there.
    (output / FINETUNE_FILE).unlink(missing_ok=True)
    for seed in fits:
        for split, found in scored[seed].items():
            write_predictions(output, data, split, seed, found["predictions"])
    predictions = scored[best_seed][told]["predictions"]
    if task.kind in ("classify", "tokens"):
        folder.figure("confusion", confusion_matrix(data.labels, *_flat(data.splits[told], predictions)))

    def write(target: Path) -> None:
        fits[best_seed].model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    write_whole(output / "model", write)
    folder.json(FINETUNE_FILE, content)
    kept.forget()
    report(console, content)
    console.print(f"every figure: {output / FINETUNE_FILE}; model, predictions beside it", highlight=False)
    return content


class _Runner:
    """Fine-tunes and scores, and says how far it is."""

    def __init__(
        self,
        data: Data,
        encoded: dict[str, Encoded],
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        settings: FitSettings,
        steps: Steps,
        kept: KeptFits,
    ) -> None:
        self.data, self.encoded, self.source, self.tokenizer = data, encoded, source, tokenizer
        self.settings, self.steps, self.kept = settings, steps, kept

    def fit(self, rate: float, seed: int) -> Fit:
        what, name = f"learning rate {rate:g}, seed {seed}", f"{rate!r}-seed-{seed}"
        there = self.kept.get(name, self.data, self.settings)
        self.steps.begin(f"{what}: fitted already" if there else what, self.settings.epochs)
        if there is not None:
            self.steps.at(self.settings.epochs)
            return there
        found = fit(
            self.data, self.encoded, self.source, self.tokenizer, learning_rate=rate, seed=seed,
            settings=self.settings, progress=self.steps.at,
        )  # fmt: skip
        self.kept.put(name, found)
        return found

    def score(self, seed: int, found: Fit) -> dict[str, dict[str, Any]]:
        """Metrics and predictions on dev and, once, on test."""
        scored = {}
        for split in SPLITS[1:]:
            if split not in self.encoded:
                continue
            examples = self.data.splits[split]
            outputs = predict(found.model, self.encoded[split], self.tokenizer, self.settings.batch_size)
            predictions = decode(self.data, self.encoded[split], examples, outputs)
            scored[split] = {
                "metrics": evaluate(self.data, examples, predictions),
                "per_class": per_class(self.data, examples, predictions),
                "predictions": predictions,
            }
        return scored


def _at_the_end(scores: Mapping[float, float]) -> list[str]:
    """What to say where a single learning rate is best, and none beyond it, on one side, was tried."""
    best = [rate for rate, score in scores.items() if score == max(scores.values())]
    if len(scores) < 2 or len(best) > 1 or best[0] not in (min(scores), max(scores)):
        return []
    which = "highest" if best[0] == max(scores) else "lowest"
    return [f"of the learning rates tried the {which}, {best[0]:g}, is best on dev; one beyond may be better still"]


def _best(found: Fit, metric: str) -> float:
    return found.dev[found.epoch - 1][metric]


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


def _flat(examples: Sequence[Example], predictions: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Gold and predicted numbers, word by word where words are labelled."""
    gold = [example.label for example in examples]
    if gold and isinstance(gold[0], tuple):
        return [number for label in gold for number in label], [number for label in predictions for number in label]
    return gold, list(predictions)


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print the scores."""
    n = len(content["seeds"])
    title = f"{content['model']} on {content['task']}, {content['split']}, {n} seed{'s' * (n > 1)}"
    table = Table(title=f"{title}, learning rate {content['learning_rate']:g}")
    for heading in ("metric", "mean", "std", "95 % interval of the mean"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, score in content["scores"].items():
        several = score["std"] is not None
        table.add_row(
            name, f"{score['mean']:.4f}", f"{score['std']:.4f}" if several else "–",
            f"{score['low']:.4f} to {score['high']:.4f}" if several else "–",
        )  # fmt: skip
    console.print(table)
    if content["baseline"] is not None:
        score = content["baseline"][content["split"]][content["metric"]]
        console.print(
            f"without pre-training ({content['baseline']['model']}): {content['metric']} {score:.4f}", highlight=False
        )
