"""Label sequences are the best well-formed ones; an encoder and a baseline decode together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn_crfsuite

from attention_guidance.commands.finetuning import decoding
from attention_guidance.commands.finetuning.baselines.baseline import Baseline, fit_baseline
from attention_guidance.commands.finetuning.baselines.combined import (
    WEIGHTS,
    choose_combination,
    combine,
    transitions_of,
)
from attention_guidance.commands.finetuning.baselines.crf import Crf, features_of
from attention_guidance.commands.finetuning.baselines.linear import Linear
from attention_guidance.commands.finetuning.decoding import Transitions, decode, no_transitions, viterbi, well_formed
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.tasks import get_task

LABELS = ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
NAMES = {"Asha": "B-PER", "Juma": "I-PER", "Moshi": "B-LOC", "Mjini": "I-LOC"}


def is_well_formed(path):
    names = [LABELS[n] for n in path]
    return all(
        not label.startswith("I-") or (n > 0 and names[n - 1] in (label, f"B-{label[2:]}"))
        for n, label in enumerate(names)
    )


@pytest.mark.parametrize("seed", range(5))
def test_viterbi_finds_the_best_of_all_sequences(seed):
    chance = np.random.default_rng(seed)
    scores = chance.normal(size=(5, 5))
    learned = Transitions(chance.normal(size=5), chance.normal(size=(5, 5)))

    def score(path, transitions):
        steps = sum(transitions.between[a, b] for a, b in itertools.pairwise(path))
        return transitions.start[path[0]] + steps + sum(scores[n, label] for n, label in enumerate(path))

    every = list(itertools.product(range(5), repeat=5))
    for transitions, allowed in (
        (no_transitions(LABELS), every),
        (learned, every),
        (well_formed(LABELS), [path for path in every if is_well_formed(path)]),
        (learned * 0.3 + well_formed(LABELS), [path for path in every if is_well_formed(path)]),
    ):
        assert viterbi([scores], transitions) == [max(allowed, key=lambda path: score(path, transitions))]


def test_sentences_are_decoded_side_by_side_as_alone(monkeypatch):
    monkeypatch.setattr(decoding, "_TOGETHER", 4)
    chance = np.random.default_rng(0)
    rules = Transitions(chance.normal(size=5), chance.normal(size=(5, 5))) + well_formed(LABELS)
    # Rounded, so that there are ties.
    scores = [chance.normal(size=(n, 5)).round() for n in chance.integers(1, 9, 30)]
    assert viterbi(scores, rules) == [viterbi([of_words], rules)[0] for of_words in scores]
    assert viterbi([], rules) == []


def test_entities_are_well_formed_and_other_labels_are_free():
    loose = [np.array([[0, 0, 1, 0, 2.0], [0, 0, 0, 1.5, 1], [5, 0, 0, 0, 0.0]])]
    entities = Data(get_task("ner"), LABELS, {}, {}, scheme="BIO")
    assert decode(entities, loose) == [(2, 4, 0)]
    assert decode(Data(get_task("ner"), LABELS, {}, {}), loose) == [(4, 3, 0)]
    # A word without tokens is O, unless the next label forbids it.
    assert decode(entities, [np.array([[0, 0, 9, 0, 0.0], [0] * 5, [9, 0, 0, 0, 0.0]])]) == [(2, 0, 0)]
    ((_, unseen, last),) = decode(entities, [np.array([[0, 0, 9, 0, 0.0], [0] * 5, [0, 0, 0, 0, 9.0]])])
    assert LABELS[unseen] in ("B-PER", "I-PER")
    assert LABELS[last] == "I-PER"


def sentences(n, seed):
    chance = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        words = [str(chance.choice(["na", "kwa", "leo", "Leo", *NAMES])) for _ in range(chance.integers(1, 9))]
        labels = [NAMES.get(word, "O") for word in words]
        for at, label in enumerate(labels):
            if label.startswith("I-") and (at == 0 or labels[at - 1][2:] != label[2:]):
                labels[at] = f"B-{label[2:]}"
        found.append(Example(tuple(words), tuple(LABELS.index(label) for label in labels), ""))
    return found


def entities(n=60):
    return Data(
        get_task("ner"), LABELS, {"train": sentences(n, 0), "dev": sentences(30, 1), "test": sentences(30, 2)}, {},
        scheme="BIO",
    )  # fmt: skip


def test_the_crf_predicts_what_crfsuite_predicts():
    data = entities()
    train = data.splits["train"]
    theirs = sklearn_crfsuite.CRF(algorithm="lbfgs", c1=1.0, c2=1.0, max_iterations=60, all_possible_transitions=True)
    theirs.fit([features_of(e.texts) for e in train], [[LABELS[n] for n in e.label] for e in train])
    odd = [Example(("Zzz", "Asha", "xx"), (0, 0, 0), ""), *data.splits["test"]]
    predicted = [list(row) for row in theirs.predict([features_of(e.texts) for e in odd])]
    assert [[LABELS[n] for n in row] for row in Crf.fit(data, 1.0).predict(odd)] == predicted


@pytest.mark.parametrize("labels", [LABELS, ("O", "B-a: b", "B-c --> d", "I-a: b", "I-c --> d")])
@pytest.mark.parametrize("word", ["a: b", "-->", "x --> y: 1.0", "New\rYork", "a\x0bb", "a\nb"])
def test_the_crf_takes_any_names(labels, word):
    splits = {
        split: [Example(tuple(word if w == "leo" else w for w in e.texts), e.label, "") for e in of_split]
        for split, of_split in entities().splits.items()
    }
    odd, plain = Crf.fit(Data(get_task("ner"), labels, splits, {}, scheme="BIO"), 0.1), Crf.fit(entities(), 0.1)
    assert odd.predict(splits["test"]) == plain.predict(entities().splits["test"])
    assert f"word={word}".lower() in odd.features


@pytest.mark.parametrize("strength", Crf.strengths)
def test_a_label_that_training_lacks_is_not_predicted(strength):
    """As I- where every entity is one word."""
    alone = [Example((word, "na"), (LABELS.index("B-LOC"), 0), "") for word in ("Moshi", "Arusha", "Dodoma")]
    data = Data(get_task("ner"), ("O", "B-LOC", "I-LOC"), {"train": alone, "dev": alone}, {}, scheme="BIO")
    unlike = [Example(("Zz", "qq", "77", "!?"), (0,) * 4, "")]
    (scores,) = Crf.fit(data, strength).scores(unlike)
    assert (scores[:, 2] < scores[:, :2].min() - 100).all()
    assert 2 not in Crf.fit(data, strength).predict(unlike)[0]


def texts(n, seed):
    chance = np.random.default_rng(seed)
    return [
        Example((" ".join([word] * int(chance.integers(1, 4))),), int(label), "")
        for label in chance.integers(0, 3, n)
        for word in [["abc", "def", "ghi"][label]]
    ]


def classes():
    splits = {"train": texts(60, 0), "dev": texts(30, 1), "test": texts(30, 2)}
    return Data(get_task("classify"), ("a", "b", "c"), splits, {})


@pytest.mark.parametrize("make", [entities, classes])
def test_at_its_ends_a_combination_is_one_of_the_two(make):
    data, chance = make(), np.random.default_rng(0)
    baseline = fit_baseline(data)
    encoder = {
        split: [chance.normal(size=np.shape(scores)) for scores in of_split]
        for split, of_split in baseline.scores.items()
    }
    ends = [
        decode(
            data,
            combine(baseline.scores["test"], encoder["test"], weight),
            transitions_of(data, baseline.model, weight),
        )
        for weight in (0, 1)
    ]
    assert ends == [baseline.predictions["test"], decode(data, encoder["test"])]
    assert isinstance(baseline.model, Crf if data.scheme else Linear)


def test_the_weight_is_the_best_on_dev_and_the_nearest_to_a_half_of_equals():
    data = classes()
    baseline = fit_baseline(data)
    sure = {split: [10 * np.eye(3)[e.label] for e in data.splits[split]] for split in ("dev", "test")}
    wrong = {split: [1e3 * np.eye(3)[(e.label + 1) % 3] for e in data.splits[split]] for split in ("dev", "test")}
    assert choose_combination(data, baseline, sure).weight == 0.5
    # Whichever of the two is wrong gets no weight.
    found = choose_combination(data, baseline, wrong)
    assert (found.weight, found.metrics["test"]["accuracy"]) == (0, 1)
    misled = Baseline(baseline.model, baseline.facts, {}, wrong)
    assert choose_combination(data, misled, sure).weight == WEIGHTS[-1] == 1
