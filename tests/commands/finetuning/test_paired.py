"""The difference between two models: metrics agree with libraries, and intervals have their nominal coverage."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.stats import pearsonr
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from attention_guidance.commands.finetuning.scoring.paired import Predictions, difference
from attention_guidance.errors import ConfigError


def drawn(make, n, seed):
    chance = random.Random(seed)
    return tuple(make(chance) for _ in range(n))


def tags(chance):
    return tuple(chance.choice(["O", "B-X", "I-X", "B-Y", "I-Y"]) for _ in range(chance.randint(1, 8)))


def several(chance):
    return tuple(label for label in "abc" if chance.random() < 0.4)


CASES = {
    "accuracy": ("classify", lambda chance: chance.choice("abc"), accuracy_score),
    "matthews": ("classify", lambda chance: chance.choice("abc"), matthews_corrcoef),
    "f1": ("classify", lambda chance: chance.choice("01"), lambda g, p: f1_score(g, p, pos_label="1")),
    "pearson": ("regress", lambda chance: chance.gauss(0, 1), lambda g, p: pearsonr(g, p)[0]),
}


@pytest.mark.parametrize("metric", CASES)
def test_means_are_those_of_the_libraries(metric):
    kind, make, expected = CASES[metric]
    gold = drawn(make, 60, 0)
    first, second = (Predictions(gold, tuple(drawn(make, 60, seed) for seed in seeds)) for seeds in ((1, 2, 3), (4, 5)))
    found = difference(first, second, metric, kind, resamples=200)
    for model, mean in ((first, found.first), (second, found.second)):
        assert mean == pytest.approx(np.mean([expected(list(gold), list(p)) for p in model.predicted]))
    assert found.value == pytest.approx(found.first - found.second)
    assert found.low <= found.value <= found.high


def test_entities_are_seqevals():
    gold = drawn(tags, 40, 0)
    lengths = [len(sentence) for sentence in gold]
    guess = tuple(tuple(random.Random(n).choices(["O", "B-X", "I-X", "B-Y"], k=k)) for n, k in enumerate(lengths))
    found = difference(Predictions(gold, (guess,)), Predictions(gold, (gold,)), "f1", "tokens", resamples=100)
    assert found.first == pytest.approx(entity_f1([list(g) for g in gold], [list(p) for p in guess]))
    assert found.second == 1


def test_several_labels_are_scikit_learns_macro_f1():
    gold, guess = drawn(several, 50, 0), drawn(several, 50, 1)
    found = difference(Predictions(gold, (guess,)), Predictions(gold, (gold,)), "macro_f1", "multilabel", resamples=100)
    matrices = [np.array([[label in row for label in "abc"] for row in side]) for side in (gold, guess)]
    assert found.first == pytest.approx(f1_score(*matrices, average="macro"))


def test_parts_of_speech_are_scikit_learns_macro_f1():
    gold, guess = (
        drawn(lambda chance, kinds=kinds: tuple(chance.choices(kinds, k=7)), 40, n)
        for n, kinds in enumerate(("NVA", "NVX"))
    )
    found = difference(
        Predictions(gold, (guess,)), Predictions(gold, (gold,)), "f1", "tokens", entities=False, resamples=100
    )
    flat = [[tag for sentence in side for tag in sentence] for side in (gold, guess)]
    assert found.first == pytest.approx(f1_score(*flat, average="macro"))
    assert found.second == 1


def test_labels_that_gold_lacks_count():
    gold, guess = tuple("aabb"), tuple("aabc")
    found = difference(Predictions(gold, (guess,)), Predictions(gold, (gold,)), "matthews", "classify", resamples=100)
    assert found.first == pytest.approx(matthews_corrcoef(gold, guess))
    several, none = (("a",), ("a",)), ((), ("a",))
    found = difference(
        Predictions(several, (none,)), Predictions(several, (several,)), "macro_f1", "multilabel", labels=["a", "b"],
        resamples=100,
    )  # fmt: skip
    # A label in neither has no F1, as for single labels.
    matrices = [np.array([[label in row for label in "ab"] for row in side]) for side in (several, none)]
    assert (
        found.first == pytest.approx(f1_score(*matrices, average="macro", zero_division=np.nan)) == pytest.approx(2 / 3)
    )


def at_random(gold, share, rng):
    """Predicted labels, of which this share is correct."""
    return tuple(g if rng.random() < share else str(1 - int(g)) for g in gold)


def test_no_difference_is_shown_as_often_as_it_should():
    gold = tuple(str(n % 2) for n in range(200))
    shown = 0
    for repeat in range(60):
        rng = np.random.default_rng(repeat)
        models = [Predictions(gold, tuple(at_random(gold, 0.7, rng) for _ in range(5))) for _ in range(2)]
        shown += difference(*models, "accuracy", "classify", resamples=300).verdict != "no difference shown"
    assert shown <= 8


@pytest.mark.parametrize(("runs", "seeds"), [(2, 3), (3, 3), (1, 3)])
def test_few_seeds_show_no_difference_that_is_not_there(runs, seeds):
    """Accuracy has a standard deviation of 4 points, between pre-trainings or between fine-tunings."""
    gold = tuple(str(n % 2) for n in range(1000))

    def side(rng):
        bases = rng.normal(0.75, 0.04 * (runs > 1), runs)
        shares = [base + rng.normal(0, 0.04 * (runs == 1), seeds) for base in bases]
        return [Predictions(gold, tuple(at_random(gold, share, rng) for share in of_run)) for of_run in shares]

    shown = 0
    for repeat in range(60):
        rng = np.random.default_rng(repeat)
        shown += (
            difference(side(rng), side(rng), "accuracy", "classify", resamples=200).verdict != "no difference shown"
        )
    assert shown <= 6


def test_a_clear_difference_is_shown():
    rng = np.random.default_rng(0)
    gold = tuple(str(n % 2) for n in range(300))
    better, worse = (Predictions(gold, tuple(at_random(gold, share, rng) for _ in range(5))) for share in (0.9, 0.7))
    found = difference(better, worse, "accuracy", "classify")
    assert found.verdict == "better"
    assert found.low > 0.1
    assert found.p < 0.01
    assert difference(worse, better, "accuracy", "classify").verdict == "worse"
    assert difference(better, better, "accuracy", "classify").verdict == "no difference shown"


def test_one_training_each_tells_of_no_other():
    gold = tuple(str(n % 2) for n in range(300))
    one, other = Predictions(gold, (gold,)), Predictions(gold, (("0",) * 300,))
    found = difference(one, other, "accuracy", "classify")
    assert found.low > 0.4
    assert found.verdict == "not known from one training"
    # A deterministic model, such as a baseline, may be compared with several seeds.
    assert difference(Predictions(gold, (gold,) * 2), other, "accuracy", "classify").verdict == "better"


def test_many_labels_need_no_table_of_all_pairs():
    """With 3,000 labels, confusion matrices of 4,000 examples would take 288 GB."""
    chance = np.random.default_rng(0)
    gold, guess = ([f"l{n}" for n in chance.integers(0, 3000, 4000)] for _ in range(2))
    sides = Predictions(tuple(gold), (tuple(gold),)), Predictions(tuple(gold), (tuple(guess),))
    labels = sorted({*gold, *guess})
    found = difference(*sides, "matthews", "classify", labels=labels, resamples=10)
    assert found.first == pytest.approx(1)
    assert found.second == pytest.approx(matthews_corrcoef(gold, guess))


def test_seeds_that_differ_widen_the_interval():
    gold = tuple(str(n % 2) for n in range(1000))
    wrong = tuple(str(1 - int(g)) for g in gold)

    def seed(n_wrong):
        return wrong[:n_wrong] + gold[n_wrong:]

    even = Predictions(gold, tuple(seed(200) for _ in range(5)))
    uneven = Predictions(gold, tuple(seed(n) for n in (0, 100, 200, 300, 400)))
    other = Predictions(gold, (gold,) * 5)
    narrow, wide = (difference(model, other, "accuracy", "classify") for model in (even, uneven))
    assert narrow.value == pytest.approx(wide.value) == pytest.approx(-0.2)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_what_cannot_be_compared():
    one, other = Predictions(("a", "b"), (("a", "b"),)), Predictions(("a", "a"), (("a", "b"),))
    with pytest.raises(ConfigError, match="not scored on the same test examples"):
        difference(one, other, "accuracy", "classify")
    with pytest.raises(ConfigError, match="'hamming_loss' of classify cannot be compared"):
        difference(one, one, "hamming_loss", "classify")


def test_several_pre_trainings_widen_the_interval_and_are_paired():
    gold = tuple(str(n % 2) for n in range(1000))
    wrong = tuple(str(1 - int(g)) for g in gold)

    def model(n_wrong):
        return Predictions(gold, (wrong[:n_wrong] + gold[n_wrong:],) * 3)

    # Good and bad pre-trainings, always 10 points apart: the interval is no wider than for one of them.
    bases = (100, 300, 500)
    paired = difference([model(n) for n in bases], [model(n + 100) for n in bases], "accuracy", "classify")
    one = difference(model(300), model(400), "accuracy", "classify")
    assert paired.value == pytest.approx(0.1)
    assert 0.3 * (one.high - one.low) < paired.high - paired.low <= one.high - one.low
    # Gaps of 0, 10 and 20 points give a wider interval.
    uneven = difference([model(n) for n in bases], [model(n + k) for n, k in zip(bases, (0, 100, 200), strict=True)],
                        "accuracy", "classify")  # fmt: skip
    assert uneven.value == pytest.approx(0.1)
    assert uneven.high - uneven.low > 3 * (one.high - one.low)
    with pytest.raises(ConfigError, match="2 and 1 pre-trainings cannot be paired"):
        difference([model(1), model(2)], model(3), "accuracy", "classify")
