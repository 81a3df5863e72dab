"""A linear model on character n-grams, for texts with one label, several labels or a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier

from attention_guidance.commands.finetuning.decoding import LEAST, Array
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.scoring.scores import choose_threshold

_NGRAMS = (1, 5)
# In training sets up to this size, n-grams that occur once are kept.
_FEW = 100


class Linear:
    """A fitted linear model.

    Args:
        kind: kind of the task.
        n_labels: number of labels of the task.
        vectorizers: one for each text of an example.
        model: the model of scikit-learn.
        threshold: for several labels, the probability above which a label is predicted; else None.
    """

    name = "linear model on character 1- to 5-grams"
    strengths = (0.1, 1.0, 10.0)

    def __init__(
        self,
        kind: str,
        n_labels: int,
        vectorizers: Sequence[TfidfVectorizer],
        model: Any,
        threshold: float | None = None,
    ) -> None:
        self.kind, self.n_labels, self.vectorizers = kind, n_labels, vectorizers
        self.model, self.threshold = model, threshold

    @classmethod
    def fit(cls, data: Data, strength: float) -> Linear:
        """Fit a model to the training split.

        Args:
            data: a task that labels texts.
            strength: the inverse of the L2 penalty.

        Raises:
            ValueError: scikit-learn cannot fit it, as there is a single label or no text has a character.
        """
        train = data.splits["train"]
        vectorizers = [
            vectorizer(min_df=2 if len(train) > _FEW else 1).fit([example.texts[n] for example in train])
            for n in range(len(train[0].texts))
        ]
        model: Any = Ridge(alpha=1 / strength)
        if data.task.kind != "regress":
            model = LogisticRegression(C=strength, max_iter=1000)
        # scikit-learn reads a single column of 0 and 1 as two classes.
        if data.task.kind == "multilabel" and len(data.labels) > 1:
            model = OneVsRestClassifier(model)
        model.fit(_vectors(vectorizers, train), np.squeeze(np.array([example.label for example in train])))
        fitted = cls(data.task.kind, len(data.labels), vectorizers, model)
        if data.task.kind == "multilabel":
            dev = data.splits["dev"]
            fitted.threshold = choose_threshold(data, dev, fitted._probabilities(dev))
        return fitted

    def scores(self, examples: Sequence[Example]) -> list[Array]:
        """Log-probabilities of each example's labels, [labels]; about -700 for a label that training lacks."""
        found = np.full((len(examples), self.n_labels), LEAST)
        found[:, self.model.classes_] = self.model.predict_log_proba(_vectors(self.vectorizers, examples))
        return [*np.maximum(found, LEAST)]

    def predict(self, examples: Sequence[Example]) -> list[Any]:
        """Predict, in the form of `Example.label`."""
        if self.threshold is not None:
            return [tuple(map(float, row)) for row in self._probabilities(examples) > self.threshold]
        found = self.model.predict(_vectors(self.vectorizers, examples))
        return [float(value) if self.kind == "regress" else int(value) for value in found]

    def _probabilities(self, examples: Sequence[Example]) -> Array:
        """The probability of each of several labels, [examples, labels]."""
        found: Array = self.model.predict_proba(_vectors(self.vectorizers, examples))
        return found if self.n_labels > 1 else found[:, 1:]


def vectorizer(**settings: Any) -> TfidfVectorizer:
    """A TF-IDF vectorizer of character n-grams within words."""
    return TfidfVectorizer(analyzer="char_wb", ngram_range=_NGRAMS, sublinear_tf=True, **settings)


def _vectors(vectorizers: Sequence[TfidfVectorizer], examples: Sequence[Example]) -> csr_matrix:
    parts = [vectorizer.transform([e.texts[n] for e in examples]) for n, vectorizer in enumerate(vectorizers)]
    return csr_matrix(hstack(parts))
