"""A linear-chain CRF on words and their spelling, fitted by CRFsuite and evaluated here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sklearn_crfsuite

from attention_guidance.commands.finetuning.decoding import LEAST, Array, Transitions, viterbi
from attention_guidance.commands.finetuning.examples.data import Data, Example

_ITERATIONS = 60
# A feature that all words have.
_BIAS = "bias"


class Crf:
    """A fitted CRF.

    Unlike CRFsuite's own tagger, it exposes its scores, so that it can be combined with other models.

    Args:
        features: for each feature, the weight of each label, [labels].
        between: weight of each label (second dimension) after each other label (first dimension), [labels, labels].
    """

    name = "CRF on words, affixes, shapes and neighbours"
    strengths = (0.01, 0.1, 1.0)

    def __init__(self, features: Mapping[str, Array], between: Array) -> None:
        self.features = features
        self.transitions = Transitions(np.zeros(len(between)), between)

    @classmethod
    def fit(cls, data: Data, strength: float) -> Crf:
        """Fit a CRF to the training split.

        Args:
            data: a task that labels words.
            strength: coefficient of both the L1 and the L2 penalty.
        """
        model = sklearn_crfsuite.CRF(
            algorithm="lbfgs", c1=strength, c2=strength, max_iterations=_ITERATIONS, all_possible_transitions=True
        )
        train = data.splits["train"]
        # By number: the weights are read from a text in which names with spaces, colons or arrows would be ambiguous.
        numbers: dict[str, str] = {}
        words = [
            [[numbers.setdefault(name, str(len(numbers))) for name in word] for word in features_of(example.texts)]
            for example in train
        ]
        model.fit(words, [[*map(str, example.label)] for example in train])
        n_labels, names = len(data.labels), [*numbers]
        features: dict[str, Array] = {}
        for (feature, label), weight in model.state_features_.items():
            features.setdefault(names[int(feature)], np.zeros(n_labels))[int(label)] = weight
        between = np.zeros((n_labels, n_labels))
        for (before, label), weight in model.transition_features_.items():
            between[int(before), int(label)] = weight
        # A label that training lacks (I- where every entity is one word) has no weights, and 0 could be the best score.
        seen = {number for example in train for number in example.label}
        features.setdefault(_BIAS, np.zeros(n_labels))[[*{*range(n_labels)} - seen]] = LEAST
        return cls(features, between)

    def scores(self, examples: Sequence[Example]) -> list[Array]:
        """Scores of the words of each sentence, [words, labels]."""
        nothing = np.zeros(len(self.transitions.start))
        return [
            np.array(
                [
                    sum((self.features[feature] for feature in word if feature in self.features), nothing)
                    for word in features_of(example.texts)
                ]
            )
            for example in examples
        ]

    def predict(self, examples: Sequence[Example]) -> list[tuple[int, ...]]:
        """The best label sequence of each sentence."""
        return viterbi(self.scores(examples), self.transitions)


def features_of(words: Sequence[str]) -> list[dict[str, bool]]:
    """Features of each word: the word, its affixes and shape, and the neighbouring words."""
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
        found = dict.fromkeys([_BIAS, *own[place]], True)
        for step in (-2, -1, 1, 2):
            inside = 0 <= place + step < len(words)
            beside = own[place + step][:2] if inside else ["edge"]
            found |= {f"{step:+d}:{feature}": True for feature in beside}
        features.append(found)
    return features


def _shape(word: str) -> str:
    """The shape of a word, such as `Xx`, `X.X.`, `d`: upper case, lower case, digits, with runs collapsed."""
    kinds = ["X" if c.isupper() else "x" if c.isalpha() else "d" if c.isdigit() else c for c in word]
    return "".join(kind for n, kind in enumerate(kinds) if n == 0 or kind != kinds[n - 1])
