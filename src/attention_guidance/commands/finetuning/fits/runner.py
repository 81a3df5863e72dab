"""Fit one model on one task: choose the learning rate on dev with the first seed, then fit and score every seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attention_guidance.commands.finetuning.baselines.baseline import Baseline
from attention_guidance.commands.finetuning.baselines.combined import Combination, choose_combination
from attention_guidance.commands.finetuning.decoding import decode
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.encoding import Encoded, scores_of
from attention_guidance.commands.finetuning.examples.splits import SPLITS
from attention_guidance.commands.finetuning.fits.fit import Fit, fit
from attention_guidance.commands.finetuning.fits.kept import KeptFits
from attention_guidance.commands.finetuning.fits.predict import predict
from attention_guidance.commands.finetuning.scoring.scores import evaluate, per_class
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.errors import DivergedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Fitted:
    """The scored fine-tunings of a model.

    Attributes:
        rate: the chosen learning rate.
        on_dev: the best score on dev of each learning rate tried.
        fits: by seed, in order.
        scored: by seed and split (`dev` and, if given, `test` and `mismatched`): `metrics`, `per_class`, `predictions`.
        combined: by seed, the encoder combined with the baseline; empty without a baseline.
        best_seed: the seed with the best score on dev.
        model: the model of that seed.
    """

    rate: float
    on_dev: dict[float, float]
    fits: dict[int, Fit]
    scored: dict[int, dict[str, dict[str, Any]]]
    combined: dict[int, Combination]
    best_seed: int
    model: PreTrainedModel


class Runner:
    """Fine-tune and score a model, and show progress.

    Args:
        data: the task.
        encoded: its splits.
        source: folder or name of the model.
        tokenizer: the model's tokenizer.
        settings: settings of each fit.
        steps: shows the progress.
        kept: saves the fits until all are finished.
    """

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

    def try_rates(self, rates: Sequence[float], seed: int, note: Callable[[str], None]) -> dict[float, Fit]:
        """Fit with each learning rate; those that diverge are skipped with a note.

        Raises:
            DivergedError: all learning rates diverge.
        """
        tried, diverged = {}, None
        for rate in rates:
            try:
                tried[rate] = self._fit(rate, seed)
            except DivergedError as error:
                diverged = error
                note(str(error))
        if diverged is not None and not tried:
            raise diverged
        return tried

    def on_dev(self, tried: Mapping[float, Fit]) -> dict[float, float]:
        """The best score on dev of each learning rate."""
        return {rate: self._best(found) for rate, found in tried.items()}

    def run(
        self,
        tried: Mapping[float, Fit],
        seeds: Sequence[int],
        note: Callable[[str], None],
        baseline: Baseline | None = None,
    ) -> Fitted:
        """Fit the other seeds with the best learning rate, and score each seed on dev and, once, on test.

        If a seed diverges, the next best rate is used, with a note.

        Args:
            tried: the first seed's fits, by learning rate.
            seeds: all seeds.
            note: called with each message for the user.
            baseline: the model without pre-training to combine each fit with.

        Raises:
            DivergedError: with every rate, some seed diverges.
        """
        on_dev = self.on_dev(tried)
        by_score = sorted(on_dev, key=lambda rate: on_dev[rate], reverse=True)
        for rate in by_score:
            try:
                fits = {seed: self._fit(rate, seed) if n else tried[rate] for n, seed in enumerate(seeds)}
            except DivergedError as error:
                if rate == by_score[-1]:
                    raise
                note(str(error))
            else:
                break
        best_seed = max(fits, key=lambda seed: self._best(fits[seed]))
        scored, combined = {}, {}
        for seed in fits:
            scores = self._predict(self._load(rate, seed))
            scored[seed] = self._evaluate(scores)
            if baseline is not None and baseline.scores:
                combined[seed] = choose_combination(self.data, baseline, scores)
        return Fitted(rate, on_dev, fits, scored, combined, best_seed, self._load(rate, best_seed))

    def _load(self, rate: float, seed: int) -> PreTrainedModel:
        return self.kept.load(_name(rate, seed), self.data, self.settings)

    def _best(self, found: Fit) -> float:
        return found.dev[found.epoch - 1][self.data.task.metric]

    def _fit(self, rate: float, seed: int) -> Fit:
        what, name = f"learning rate {rate:g}, seed {seed}", _name(rate, seed)
        there = self.kept.get(name)
        self.steps.begin(f"{what}: already fitted" if there else what, self.settings.epochs)
        if there is not None:
            self.steps.at(self.settings.epochs)
            return there
        found, model = fit(
            self.data,
            self.encoded,
            self.source,
            self.tokenizer,
            learning_rate=rate,
            seed=seed,
            settings=self.settings,
            progress=self.steps.at,
        )
        self.kept.put(name, found, model)
        return found

    def _predict(self, model: PreTrainedModel) -> dict[str, list[Any]]:
        """Scores of the examples of dev and the test splits, see `scores_of`."""
        return {
            split: scores_of(
                self.data,
                self.encoded[split],
                self.data.splits[split],
                predict(model, self.encoded[split], self.tokenizer, self.settings),
            )
            for split in SPLITS[1:]
            if split in self.encoded
        }

    def _evaluate(self, scores: Mapping[str, list[Any]]) -> dict[str, dict[str, Any]]:
        """Metrics and predictions of each split."""
        scored = {}
        for split, of_split in scores.items():
            examples, predictions = self.data.splits[split], decode(self.data, of_split)
            scored[split] = {
                "metrics": evaluate(self.data, examples, predictions),
                "per_class": per_class(self.data, examples, predictions),
                "predictions": predictions,
            }
        return scored


def _name(rate: float, seed: int) -> str:
    """The name that a fit is saved under."""
    return f"{rate!r}-seed-{seed}"


def all_alike(data: Data, fitted: Fitted) -> list[str]:
    """Notes on a model that predicts one number or label for all examples: its score may look plausible."""
    if data.task.kind not in ("regress", "classify"):
        return []
    numbers = data.task.kind == "regress"
    why = "correlations are undefined, reported as 0" if numbers else "its score is that of a constant prediction"
    return [
        f"seed {seed} predicts {f'{one:g}' if numbers else data.labels[one]} for all of {split}: {why}"
        for seed, of_seed in fitted.scored.items()
        for split, found in of_seed.items()
        for one in [found["predictions"][0]]
        if len({*found["predictions"]}) == 1
    ]


def at_the_end(scores: Mapping[float, float], rates: Sequence[float]) -> list[str]:
    """A note if the single best learning rate is the lowest or highest one tried.

    Args:
        scores: scores on dev, by learning rate.
        rates: all learning rates tried, including those that diverged.
    """
    best = [rate for rate, score in scores.items() if score == max(scores.values())]
    if len(rates) < 2 or len(best) > 1 or best[0] not in (min(rates), max(rates)):
        return []
    which, beyond = ("highest", "higher") if best[0] == max(rates) else ("lowest", "lower")
    return [f"the best learning rate on dev, {best[0]:g}, is the {which} one tried; a {beyond} one may be better"]
