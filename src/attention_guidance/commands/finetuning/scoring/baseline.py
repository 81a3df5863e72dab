"""What a task gives without any pre-training: a linear model on character n-grams, a CRF where words are labelled.

So that one knows whether pre-training was worth it at this size at all. How strongly they are regularized is chosen on
the development set, like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn_crfsuite
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.splits import SPLITS
from attention_guidance.commands.finetuning.scoring.scores import choose_threshold, evaluate

_NGRAMS = (1, 5)
_STRENGTHS = (0.1, 1.0, 10.0)
_CRF_STRENGTHS = (0.01, 0.1, 1.0)

Predict = Callable[[Sequence[Example]], list[Any]]


@dataclass(frozen=True)
class Baseline:
    """What came of it.

    Attributes:
        facts: `model` (what it is), `strength` (chosen on dev), and the metrics of `dev` and, if there is one, `test`.
        predictions: by split, as `Example.label`.
    """

    facts: dict[str, Any]
    predictions: dict[str, list[Any]]


def fit_baseline(data: Data) -> Baseline:
    """Fit the baseline of a task and score it."""
    name, strengths, fit = _kind(data)
    fitted = {strength: _thresholded(data, fit(data, strength)) for strength in strengths}

    def on_dev(strength: float) -> float:
        return evaluate(data, data.splits["dev"], fitted[strength](data.splits["dev"]))[data.task.metric]

    best = max(strengths, key=on_dev)
    predictions = {split: fitted[best](data.splits[split]) for split in SPLITS[1:] if split in data.splits}
    metrics = {split: evaluate(data, data.splits[split], predicted) for split, predicted in predictions.items()}
    return Baseline({"model": name, "strength": best, **metrics}, predictions)


def _thresholded(data: Data, predict: Predict) -> Predict:
    """Of several labels those whose probabilities are above the threshold that is best on dev, as of other models."""
    if data.task.kind != "multilabel":
        return predict
    threshold = choose_threshold(data, data.splits["dev"], np.array(predict(data.splits["dev"])))

    def labels(examples: Sequence[Example]) -> list[Any]:
        return [tuple(float(share > threshold) for share in shares) for shares in predict(examples)]

    return labels


def _kind(data: Data) -> tuple[str, Sequence[float], Callable[[Data, float], Predict]]:
    if data.task.kind == "tokens":
        return "CRF on words, affixes, shapes and neighbours", _CRF_STRENGTHS, _crf
    return "linear model on character 1- to 5-grams", _STRENGTHS, _linear


def _linear(data: Data, strength: float) -> Predict:
    train = data.splits["train"]
    n_texts = len(train[0].texts)
    vectorizers = [
        TfidfVectorizer(analyzer="char_wb", ngram_range=_NGRAMS, sublinear_tf=True, min_df=2 if len(train) > 100 else 1)
        for _ in range(n_texts)
    ]
    columns = [vectorizer.fit_transform([e.texts[n] for e in train]) for n, vectorizer in enumerate(vectorizers)]
    labels = [example.label for example in train]
    # scikit-learn takes a single column of 0 and 1 for two classes.
    several = data.task.kind == "multilabel" and len(data.labels) > 1
    if data.task.kind == "regress":
        model = Ridge(alpha=1 / strength)
    else:
        model = LogisticRegression(C=strength, max_iter=1000)
        if several:
            model = OneVsRestClassifier(model)
    model.fit(csr_matrix(hstack(columns)), np.squeeze(np.array(labels)))

    def predict(examples: Sequence[Example]) -> list[Any]:
        parts = [vectorizer.transform([e.texts[n] for e in examples]) for n, vectorizer in enumerate(vectorizers)]
        if data.task.kind == "multilabel":
            shares = model.predict_proba(csr_matrix(hstack(parts)))
            return [tuple(map(float, row)) for row in (shares if several else shares[:, 1:])]
        found = model.predict(csr_matrix(hstack(parts)))
        return [float(value) if data.task.kind == "regress" else int(value) for value in found]

    return predict


def _crf(data: Data, strength: float) -> Predict:
    model = sklearn_crfsuite.CRF(
        algorithm="lbfgs", c1=strength, c2=strength, max_iterations=60, all_possible_transitions=True
    )
    train = data.splits["train"]
    model.fit([_features(e.texts) for e in train], [[data.labels[n] for n in e.label] for e in train])
    numbers = {label: number for number, label in enumerate(data.labels)}

    def predict(examples: Sequence[Example]) -> list[Any]:
        found = model.predict([_features(example.texts) for example in examples])
        return [tuple(numbers[label] for label in labels) for labels in found]

    return predict


def _features(words: Sequence[str]) -> list[dict[str, bool]]:
    """What a CRF sees of each word: itself, its affixes and shape, and the words beside it."""
    own = [
        [
            f"word={word.lower()}",
            f"shape={_shape(word)}",
            *(f"prefix={word[:n].lower()}" for n in (2, 3)),
            *(f"suffix={word[-n:].lower()}" for n in (2, 3, 4)),
        ]
        for word in words
    ]
    features = []
    for place in range(len(words)):
        found = dict.fromkeys(["bias", *own[place]], True)
        for step in (-2, -1, 1, 2):
            inside = 0 <= place + step < len(words)
            beside = own[place + step][:2] if inside else ["edge"]
            found |= {f"{step:+d}:{feature}": True for feature in beside}
        features.append(found)
    return features


def _shape(word: str) -> str:
    """As `Xx`, `X.X.`, `d`: capitals, small letters, digits, runs of the same written once."""
    kinds = ["X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word]
    return "".join(kind for n, kind in enumerate(kinds) if n == 0 or kind != kinds[n - 1])
