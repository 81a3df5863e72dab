"""Score the answers of heads: accuracies with intervals, best head, baselines.

The best of a hundred heads looks good by chance alone. The best head is therefore chosen on one half of the texts and
scored on the other, and so is the best baseline, a simple rule such as a fixed offset. Intervals are percentiles of a
bootstrap over texts, since questions about one text are not independent; fewer than ten texts give no interval.

Shape suffixes: N questions, G texts of a sample, P predictors, R resamples, L layers, H heads, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attention_guidance.analysis.intervals import FEWEST, resampled_ratios
from attention_guidance.commands.probes.answers import Answers

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers with its 95 % interval; NaN if there are no questions."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format as `0.710 (0.680 to 0.740)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class LabelScores:
    """Scores on the questions with one label.

    Attributes:
        label: The label; `all` for all questions.
        n: Number of questions; `n_scored` of them are in the half used for scoring.
        heads: Accuracy of every head on all questions, [L, H, D, 3]: value and both ends of the interval.
        max: Accuracy of the best head and direction on all questions (the paper's figure), biased by the choice.
        mean: Mean accuracy over all heads and directions, on all questions (the paper's figure).
        best: Layer, head and direction of the best on the first half.
        best_accuracy: Its accuracy on the second half.
        baseline: The fixed offset (`offset:-2`), or rule of the task, that is best on the first half.
        baseline_accuracy: Its accuracy on the second half.
        gain: best_accuracy - baseline_accuracy, resampled together.
        rules: Accuracy of each rule on all questions.
        chance: Expected accuracy of a head with uniform attention.
    """

    label: str
    n: int
    n_scored: int
    heads: Array
    max: float
    mean: float
    best: tuple[int, int, str]
    best_accuracy: Accuracy
    baseline: str
    baseline_accuracy: Accuracy
    gain: Accuracy
    rules: dict[str, Accuracy]
    chance: float

    @property
    def apart(self) -> bool:
        """Whether the best head beats the best baseline, with intervals that do not overlap."""
        return self.best_accuracy.low > self.baseline_accuracy.high


def score(answers: Answers, *, seed: int = 1, resamples: int = 1000, at_least: int = 20) -> list[LabelScores]:
    """Score all questions together, then those of each label, most frequent first.

    Args:
        answers: Answers of all heads.
        seed: Random seed of the halves and the bootstrap.
        resamples: Number of bootstrap resamples.
        at_least: Labels with fewer questions are not scored separately.
    """
    labels = np.array(answers.labels)
    names, counts = np.unique(labels, return_counts=True)
    frequent = sorted((-int(n), str(name)) for name, n in zip(names, counts, strict=True) if n >= at_least)
    result = [_score("all", answers, np.ones(len(labels), bool), seed, resamples)]
    if len(names) > 1:
        result += [_score(name, answers, labels == name, seed, resamples) for _, name in frequent]
    return result


def _score(label: str, answers: Answers, mask: npt.NDArray[np.bool_], seed: int, resamples: int) -> LabelScores:
    _, layers, heads, directions = answers.right.shape
    texts = np.unique(answers.texts[mask], return_inverse=True)[1]
    n_heads = layers * heads * directions
    rules = list(answers.right_by_rule)
    baselines = [*(f"offset:{k:+d}" for k in answers.offsets), *rules]
    predictors_NP = np.concatenate(
        [
            answers.right[mask].reshape(len(texts), n_heads),
            answers.right_by_offset[mask],
            *(answers.right_by_rule[rule][mask, None] for rule in rules),
        ],
        1,
    )
    sums_GP, counts_G = _sums_by_text(predictors_NP, texts)
    all_GP = resampled_ratios(sums_GP, counts_G, np.random.default_rng(seed), resamples)
    # A separate generator, so that the halves do not depend on the number of resamples.
    second_G = np.random.default_rng(seed + 1).permutation(len(counts_G)) % 2 == 1
    first = sums_GP[~second_G]
    chosen = int(first[:, :n_heads].sum(0).argmax())
    chosen_baseline = int(first[:, n_heads:].sum(0).argmax())
    pair = [chosen, n_heads + chosen_baseline]
    # A single text has no second half, so its choice cannot be scored.
    rng = np.random.default_rng(seed + 2)
    second_half = resampled_ratios(sums_GP[second_G][:, pair], counts_G[second_G], rng, resamples)
    n_second = int(second_G.sum())
    best, baseline = _accuracy(second_half[:, 0], n_second), _accuracy(second_half[:, 1], n_second)
    layer, head, direction = np.unravel_index(chosen, (layers, heads, directions))
    ends = np.percentile(all_GP[1:, :n_heads], [2.5, 97.5], axis=0)
    ends = ends if len(counts_G) >= FEWEST else np.full_like(ends, np.nan)
    accuracies = np.stack([all_GP[0, :n_heads], *ends], -1)
    return LabelScores(
        label=label,
        n=len(texts),
        n_scored=int(counts_G[second_G].sum()),
        heads=accuracies.reshape(layers, heads, directions, 3),
        max=float(all_GP[0, :n_heads].max()),
        mean=float(all_GP[0, :n_heads].mean()),
        best=(int(layer), int(head), answers.directions[int(direction)]),
        best_accuracy=best,
        baseline=baselines[chosen_baseline],
        baseline_accuracy=baseline,
        gain=_accuracy(second_half[:, 0] - second_half[:, 1], n_second),
        rules={
            rule: _accuracy(all_GP[:, n_heads + len(answers.offsets) + r], len(counts_G))
            for r, rule in enumerate(rules)
        },
        chance=float(answers.right_by_chance[mask].mean()),
    )


def _sums_by_text(predictors_NP: npt.NDArray[np.float32], texts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Correct answers of each predictor in each text, [G, P], and the number of questions of each text, [G]."""
    n_texts = int(texts.max()) + 1
    sums_GP = np.zeros((n_texts, predictors_NP.shape[1]))
    np.add.at(sums_GP, texts, predictors_NP)
    return sums_GP, np.bincount(texts, minlength=n_texts).astype(np.float64)


def _accuracy(values_R: Array, n_texts: int) -> Accuracy:
    """The value with percentiles of its resamples, or NaN if there are too few texts."""
    if n_texts < FEWEST:
        return Accuracy(float(values_R[0]), float("nan"), float("nan"))
    low, high = np.percentile(values_R[1:], [2.5, 97.5])
    return Accuracy(float(values_R[0]), float(low), float(high))


def as_json(scores: Sequence[LabelScores], with_heads: bool = True) -> list[dict[str, Any]]:
    """Convert scores to JSON; docs/looking.md describes the keys."""

    def to_json(accuracy: Accuracy) -> dict[str, float]:
        return {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high}

    return [
        {
            "label": s.label,
            "questions": s.n,
            "questions_scored": s.n_scored,
            "max": s.max,
            "mean": s.mean,
            "best": {"layer": s.best[0], "head": s.best[1], "direction": s.best[2], **to_json(s.best_accuracy)},
            "baseline": {"name": s.baseline, **to_json(s.baseline_accuracy)},
            "gain": to_json(s.gain),
            "intervals_apart": s.apart,
            "rules": {rule: to_json(accuracy) for rule, accuracy in s.rules.items()},
            "chance": s.chance,
        }
        | ({"heads": np.round(s.heads, 5).tolist()} if with_heads else {})
        for s in scores
    ]
