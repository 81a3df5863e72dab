"""How good the answers of heads are: accuracy with intervals, the best of many heads without flattering it, baselines.

The best of a hundred heads looks good by chance alone. So the head is chosen on one half of the texts and its accuracy
told from the other; the same goes for the best simple rule that it is held against, such as a fixed offset. Intervals
are percentiles of a bootstrap over texts, whose questions are not independent; from fewer than ten texts there is none.

Shape suffixes: N questions, G texts of a sample, P predictors, R resamples, L layers, H heads, D directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attention_guidance.commands.probes.answers import Answers

Array = npt.NDArray[np.float64]

# Percentiles of resamples of so few texts are much too narrow.
_FEW = 10


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers with its 95 % interval; NaN where there is no question."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As `0.71 (0.68 to 0.74)`."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class LabelScores:
    """What is told of the questions of one label.

    Attributes:
        label: their label; `all` for all questions.
        n: how many there are, and `n_scored` in the half that the chosen are scored on.
        heads: accuracy of every head on all questions, [L, H, D, 3]: value and both ends of the interval.
        max, mean: of the best head and direction, and over all of them, on all questions (the paper's figures). The
            first is flattered by the choice.
        best: layer, head and direction of what was best on one half.
        best_accuracy: its accuracy on the other half.
        baseline: the fixed offset (`offset:-2`), or rule of the task, that was best on the first half.
        baseline_accuracy: its accuracy on the other.
        gain: best_accuracy - baseline_accuracy, resampled together.
        rules: accuracy of each rule on all questions.
        chance: expected accuracy of a head that looks at all words alike.
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
        """Whether the best head beats the best baseline with intervals that do not overlap."""
        return self.best_accuracy.low > self.baseline_accuracy.high


def score(answers: Answers, *, seed: int = 1, resamples: int = 1000, at_least: int = 20) -> list[LabelScores]:
    """Score all questions together, then those of each label, most frequent first.

    Args:
        answers: of all heads.
        seed: of the halves and of the bootstrap.
        resamples: of the bootstrap.
        at_least: labels of fewer questions are not told apart.
    """
    labels = np.array(answers.labels)
    names, counts = np.unique(labels, return_counts=True)
    frequent = sorted((-int(n), str(name)) for name, n in zip(names, counts, strict=True) if n >= at_least)
    result = [_scored("all", answers, np.ones(len(labels), bool), seed, resamples)]
    if len(names) > 1:
        result += [_scored(name, answers, labels == name, seed, resamples) for _, name in frequent]
    return result


def _scored(label: str, answers: Answers, asked: npt.NDArray[np.bool_], seed: int, resamples: int) -> LabelScores:
    _, layers, heads, directions = answers.right.shape
    texts = np.unique(answers.texts[asked], return_inverse=True)[1]
    n_heads = layers * heads * directions
    rules = list(answers.right_by_rule)
    baselines = [*(f"offset:{k:+d}" for k in answers.offsets), *rules]
    predictors_NP = np.concatenate(
        [
            answers.right[asked].reshape(len(texts), n_heads),
            answers.right_by_offset[asked],
            *(answers.right_by_rule[rule][asked, None] for rule in rules),
        ],
        1,
    )
    sums_GP, counts_G = _sums_by_text(predictors_NP, texts)
    all_GP = _resampled(sums_GP, counts_G, np.random.default_rng(seed), resamples)
    # A generator of its own, so that the halves are the same however many resamples are drawn.
    second_G = np.random.default_rng(seed + 1).permutation(len(counts_G)) % 2 == 1
    first = sums_GP[~second_G]
    chosen = int(first[:, :n_heads].sum(0).argmax())
    chosen_baseline = int(first[:, n_heads:].sum(0).argmax())
    pair = [chosen, n_heads + chosen_baseline]
    # A single text has no second half, and says nothing of what was chosen on it.
    half = _resampled(sums_GP[second_G][:, pair], counts_G[second_G], np.random.default_rng(seed + 2), resamples)
    n_second = int(second_G.sum())
    best, baseline = _accuracy(half[:, 0], n_second), _accuracy(half[:, 1], n_second)
    layer, head, direction = np.unravel_index(chosen, (layers, heads, directions))
    ends = np.percentile(all_GP[1:, :n_heads], [2.5, 97.5], axis=0)
    of_heads = np.stack([all_GP[0, :n_heads], *(ends if len(counts_G) >= _FEW else np.full_like(ends, np.nan))], -1)
    return LabelScores(
        label=label,
        n=len(texts),
        n_scored=int(counts_G[second_G].sum()),
        heads=of_heads.reshape(layers, heads, directions, 3),
        max=float(all_GP[0, :n_heads].max()),
        mean=float(all_GP[0, :n_heads].mean()),
        best=(int(layer), int(head), answers.directions[int(direction)]),
        best_accuracy=best,
        baseline=baselines[chosen_baseline],
        baseline_accuracy=baseline,
        gain=_accuracy(half[:, 0] - half[:, 1], n_second),
        rules={
            rule: _accuracy(all_GP[:, n_heads + len(answers.offsets) + r], len(counts_G))
            for r, rule in enumerate(rules)
        },
        chance=float(answers.right_by_chance[asked].mean()),
    )


def _sums_by_text(predictors_NP: npt.NDArray[np.float32], texts: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """How often each predictor was right in each text, [G, P], and the questions of each text, [G]."""
    n_texts = int(texts.max()) + 1
    sums_GP = np.zeros((n_texts, predictors_NP.shape[1]))
    np.add.at(sums_GP, texts, predictors_NP)
    return sums_GP, np.bincount(texts, minlength=n_texts).astype(np.float64)


def _resampled(sums_GP: Array, counts_G: Array, chance: np.random.Generator, resamples: int) -> Array:
    """Accuracy of each predictor on the sample itself (row 0) and on resamples of its texts, [1 + R, P]."""
    n_texts = len(counts_G)
    if not n_texts:
        return np.full((1 + resamples, sums_GP.shape[1]), np.nan)
    drawn_RG = chance.multinomial(n_texts, np.full(n_texts, 1 / n_texts), size=resamples)
    times_RG = np.concatenate([np.ones((1, n_texts)), drawn_RG])
    result: Array = (times_RG @ sums_GP) / (times_RG @ counts_G)[:, None]
    return result


def _accuracy(values_R: Array, n_texts: int) -> Accuracy:
    """A value and the percentiles of its resamples, where there are texts enough for them."""
    if n_texts < _FEW:
        return Accuracy(float(values_R[0]), float("nan"), float("nan"))
    low, high = np.percentile(values_R[1:], [2.5, 97.5])
    return Accuracy(float(values_R[0]), float(low), float(high))


def as_json(scores: Sequence[LabelScores], with_heads: bool = True) -> list[dict[str, Any]]:
    """Scores as JSON: see docs/looking.md for the keys."""

    def told(accuracy: Accuracy) -> dict[str, float]:
        return {"value": accuracy.value, "low": accuracy.low, "high": accuracy.high}

    return [
        {
            "label": s.label,
            "questions": s.n,
            "questions_scored": s.n_scored,
            "max": s.max,
            "mean": s.mean,
            "best": {"layer": s.best[0], "head": s.best[1], "direction": s.best[2], **told(s.best_accuracy)},
            "baseline": {"name": s.baseline, **told(s.baseline_accuracy)},
            "gain": told(s.gain),
            "intervals_apart": s.apart,
            "rules": {rule: told(accuracy) for rule, accuracy in s.rules.items()},
            "chance": s.chance,
        }
        | ({"heads": np.round(s.heads, 5).tolist()} if with_heads else {})
        for s in scores
    ]
