"""Decode scores into predictions: the best label of a text, or the best well-formed label sequence of a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax

from attention_guidance.commands.finetuning.examples.data import Data

Array = npt.NDArray[np.float64]
#: The score of a label that training lacks, about -708: finite, so that it can be weighted.
LEAST = float(np.log(np.finfo(float).tiny))


@dataclass(frozen=True)
class Transitions:
    """Transition scores of label sequences, as in a linear-chain CRF.

    Attributes:
        start: score of each label for the first word, [labels].
        between: score of each label (second dimension) after each label (first dimension), [labels, labels].
    """

    start: Array
    between: Array

    def __mul__(self, factor: float) -> Transitions:
        """Scale the scores, which must be finite."""
        return Transitions(self.start * factor, self.between * factor)

    def __add__(self, other: Transitions) -> Transitions:
        return Transitions(self.start + other.start, self.between + other.between)


def decode(data: Data, scores: Sequence[Array], transitions: Transitions | None = None) -> list[Any]:
    """Predict examples from their scores.

    Args:
        data: the task.
        scores: for each example, [labels], or [words, labels] if words are labelled.
        transitions: scores of label sequences; by default, entities must be well-formed and other labels are free.

    Returns:
        Predictions, in the form of `Example.label`.
    """
    kind = data.task.kind
    if kind == "regress":
        return [float(row.reshape(-1)[0]) for row in scores]
    if kind == "multilabel":
        return [tuple(float(score > 0) for score in row) for row in scores]
    if kind == "classify":
        return [int(row.argmax()) for row in scores]
    if transitions is None:
        transitions = rules_of(data)
    return [viterbi(of_words, transitions) for of_words in scores]


def rules_of(data: Data) -> Transitions:
    """The transitions of a task that labels words: those of entities must be well-formed, all others may occur."""
    return no_transitions(data.labels) if data.scheme is None else well_formed(data.labels)


def no_transitions(labels: Sequence[str]) -> Transitions:
    """Transitions of 0, so that each word gets its best label."""
    return Transitions(np.zeros(len(labels)), np.zeros((len(labels), len(labels))))


def well_formed(labels: Sequence[str]) -> Transitions:
    """Transitions that forbid an I- that continues no entity of its type.

    Args:
        labels: BIO labels.
    """
    rules = no_transitions(labels)
    for number, label in enumerate(labels):
        if label.startswith("I-"):
            rules.start[number] = -np.inf
            rules.between[[before[1:] != label[1:] or before[0] not in "BI" for before in labels], number] = -np.inf
    return rules


def viterbi(scores: Array, transitions: Transitions) -> tuple[int, ...]:
    """The best label sequence of a sentence; ties go to the lower label index.

    Args:
        scores: [words, labels], at least one word.
        transitions: scores of the sequence.
    """
    best = scores[0] + transitions.start
    came_from = []
    for row in scores[1:]:
        to_each = best[:, None] + transitions.between
        came_from.append(to_each.argmax(0))
        best = to_each.max(0) + row
    path = [int(best.argmax())]
    for step in reversed(came_from):
        path.append(int(step[path[-1]]))
    return tuple(reversed(path))


def marginals(scores: Array, transitions: Transitions) -> Array:
    """The probability of each label of each word under the sequence model (forward-backward).

    Args:
        scores: [words, labels], at least one word; logarithms of potentials.
        transitions: scores of the sequence.

    Returns:
        [words, labels]; each row sums to 1.
    """
    forward = [scores[0] + transitions.start]
    for row in scores[1:]:
        forward.append(logsumexp(forward[-1][:, None] + transitions.between, axis=0) + row)
    backward = [np.zeros(len(transitions.start))]
    for row in scores[:0:-1]:
        backward.append(logsumexp(transitions.between + row + backward[-1], axis=1))
    found: Array = softmax(np.array(forward) + np.array(backward[::-1]), axis=1)
    return found
