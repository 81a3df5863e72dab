"""Decode scores into predictions: the best label of a text, or the best well-formed label sequence of a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax

from attention_guidance.commands.finetuning.examples.data import Data

Array = npt.NDArray[np.float64]
#: The score of a label that training lacks, about -708: finite, so that it can be weighted.
LEAST = float(np.log(np.finfo(float).tiny))
# Sentences decoded side by side.
_TOGETHER = 256


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
    return viterbi(scores, transitions)


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


def viterbi(scores: Sequence[Array], transitions: Transitions) -> list[tuple[int, ...]]:
    """The best label sequence of each sentence; ties go to the lower label index.

    Args:
        scores: [words, labels] of each sentence, at least one word.
        transitions: scores of the sequence.
    """
    # Longest first, so that the sentences that have a word at some position are the first ones.
    order = sorted(range(len(scores)), key=lambda number: -len(scores[number]))
    found: list[tuple[int, ...]] = [()] * len(scores)
    for at in range(0, len(order), _TOGETHER):
        group = order[at : at + _TOGETHER]
        for number, path in zip(group, _best_paths([scores[n] for n in group], transitions), strict=True):
            found[number] = path
    return found


def _best_paths(scores: Sequence[Array], transitions: Transitions) -> Iterator[tuple[int, ...]]:
    """Viterbi over sentences side by side, longest first."""
    lengths = np.array([len(of_words) for of_words in scores])
    best = np.array([of_words[0] for of_words in scores]) + transitions.start  # [sentences, labels]
    came_from = []
    for word in range(1, lengths[0]):
        n = int((lengths > word).sum())
        to_each = best[:n, :, None] + transitions.between
        came_from.append(to_each.argmax(1))
        best[:n] = to_each.max(1) + np.array([of_words[word] for of_words in scores[:n]])
    label = best.argmax(1)
    paths = np.empty((len(scores), lengths[0]), int)
    for word in range(lengths[0] - 1, -1, -1):
        n = int((lengths > word).sum())
        paths[:n, word] = label[:n]
        if word:
            label[:n] = came_from[word - 1][np.arange(n), label[:n]]
    return (tuple(path[:length].tolist()) for path, length in zip(paths, lengths, strict=True))


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
