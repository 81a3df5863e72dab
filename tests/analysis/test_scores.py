"""Scores of answers: hand-counted accuracy, honest choice of the best, intervals that hold what they promise."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attention_guidance.analysis.intervals import rank_correlation
from attention_guidance.commands.probes.answers import Answers
from attention_guidance.commands.probes.scores import as_json, score


def answers(right, labels=None, texts=None, offsets=None, rules=None):
    right = np.asarray(right, np.float32)
    n = len(right)
    by_offset = np.zeros((n, 2), np.float32) if offsets is None else np.asarray(offsets, np.float32)
    return Answers(
        right=right, directions=("forward", "backward")[: right.shape[3]], labels=tuple(labels or ["all"] * n),
        texts=np.arange(n) if texts is None else np.asarray(texts), offsets=(-1, 1), right_by_offset=by_offset,
        right_by_rule={name: np.asarray(x, np.float32) for name, x in (rules or {}).items()},
        right_by_chance=np.full(n, 0.25, np.float32), n_texts=n, skipped={},
    )  # fmt: skip


def test_counted_by_hand():
    # Two layers of one head, one direction; the second head is right on three of four.
    right = np.array([[[[1]], [[1]]], [[[0]], [[1]]], [[[0]], [[1]]], [[[0.5]], [[0]]]])
    (everything,) = score(answers(right, offsets=[[1, 0]] * 4, rules={"nearest": [1, 0, 0, 0]}))
    np.testing.assert_allclose(everything.heads[..., 0, 0], [[1.5 / 4], [3 / 4]])
    assert (everything.max, everything.mean) == (0.75, pytest.approx((0.375 + 0.75) / 2))
    assert (everything.n, everything.n_scored) == (4, 2)
    assert everything.best == (1, 0, "forward")
    assert (everything.baseline, everything.baseline_accuracy.value) == ("offset:-1", 1.0)
    assert everything.rules["nearest"].value == 0.25
    assert everything.chance == 0.25
    assert not everything.apart


def test_a_head_that_is_always_right_scores_one():
    right = np.zeros((40, 3, 4, 2))
    right[:, 2, 1, 1] = 1
    (everything,) = score(answers(right))
    assert everything.best == (2, 1, "backward")
    assert everything.best_accuracy.value == everything.best_accuracy.low == 1
    assert everything.gain.value == 1
    assert everything.apart


def test_gain_is_over_the_baseline_and_ends_are_those_of_95_percent():
    rng = np.random.default_rng(2)
    head, offset = rng.random(400) < 0.7, rng.random(400) < 0.5
    (everything,) = score(answers(head[:, None, None, None], offsets=np.stack([offset, offset * 0], -1)))
    best, baseline, gain = everything.best_accuracy, everything.baseline_accuracy, everything.gain
    assert gain.value == pytest.approx(best.value - baseline.value)
    # Half of 400 questions, each a text: the intervals of shares and of the difference of two that are independent.
    for found, spread in ((best, 0.7 * 0.3), (baseline, 0.25), (gain, 0.7 * 0.3 + 0.25)):
        assert found.high - found.low == pytest.approx(2 * 1.96 * (spread / 200) ** 0.5, rel=0.15)


def test_the_best_of_many_blind_heads_is_not_flattered():
    """144 heads that guess: the best on all looks well above chance, the chosen one on the other half does not."""
    rng = np.random.default_rng(0)
    flattered, honest = [], []
    for seed in range(20):
        (everything,) = score(answers(rng.random((100, 12, 12, 1)) < 0.5), seed=seed, resamples=100)
        flattered.append(everything.max)
        honest.append(everything.best_accuracy.value)
    assert np.mean(flattered) > 0.6
    assert abs(np.mean(honest) - 0.5) < 0.04


def test_intervals_are_over_texts_and_hold_the_truth():
    rng = np.random.default_rng(1)
    held, wide = 0, []
    for seed in range(200):
        texts = np.repeat(np.arange(60), 5)
        skill = rng.random(60) < 0.6  # a head is right on all questions of a text, or on none
        (everything,) = score(answers(skill[texts][:, None, None, None], texts=texts), seed=seed, resamples=300)
        _, low, high = everything.heads[0, 0, 0]
        held += low <= 0.6 <= high
        wide.append(high - low)
    assert 0.89 <= held / 200 <= 0.99
    # Of 300 independent questions it would be 0.11 wide.
    assert np.mean(wide) == pytest.approx(2 * 1.96 * (0.24 / 60) ** 0.5, rel=0.1)


def test_labels_by_frequency_and_only_where_there_are_enough():
    right = np.zeros((50, 1, 1, 1))
    right[:30] = 1
    labels = ["nsubj"] * 20 + ["det"] * 25 + ["rare"] * 5
    found = score(answers(right, labels=labels), at_least=20)
    assert [(scores.label, scores.n) for scores in found] == [("all", 50), ("det", 25), ("nsubj", 20)]
    assert [scores.max for scores in found] == [0.6, pytest.approx(0.4), 1.0]


def test_seeded_and_a_single_text_is_no_error():
    right = np.random.default_rng(0).random((30, 2, 2, 1)) < 0.5
    one, again, other = (as_json(score(answers(right), seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_few_texts_show_nothing():
    """Heads that guess against rules that guess, on many questions of few texts: intervals would be much too narrow."""
    for n_texts in (1, 2, 4, 8, 16):
        for seed in range(10):
            rng = np.random.default_rng(seed)
            texts = np.arange(40) % n_texts
            found = answers(rng.random((40, 4, 4, 2)) < 0.3, texts=texts, offsets=rng.random((40, 2)) < 0.3)
            (everything,) = score(found, seed=seed, resamples=100)
            assert not everything.apart
            assert np.isnan(everything.best_accuracy.low)
    (alone,) = score(answers([[[[1.0]]]]))
    # What was chosen on the only text cannot be scored on it.
    assert np.isnan(alone.best_accuracy.value)
    assert alone.max == 1


def test_the_baseline_is_chosen_on_the_first_half_too():
    rng = np.random.default_rng(0)
    flattered = []
    for seed in range(20):
        offsets = rng.random((60, 2)) < 0.5
        found = answers(np.zeros((60, 1, 1, 1)), offsets=offsets)
        (everything,) = score(found, seed=seed, resamples=100)
        flattered.append(everything.baseline_accuracy.value - 0.5)
    assert abs(np.mean(flattered)) < 0.04


def test_rank_correlation():
    x = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert rank_correlation(x, [0.1, 0.2, 0.3, 0.4, 0.5])[0] == pytest.approx(-1)
    value, low, high = rank_correlation(x, [0.1, 0.3, 0.2, 0.5, 0.4])
    assert value == pytest.approx(-0.8)
    assert low <= value <= high
    # Ranks, in the resamples too: an outlier weighs no more than its rank.
    assert rank_correlation(x, [0.1, 0.2, 0.3, 0.4, 50.0]) == pytest.approx((-1, -1, -1))
    assert np.isnan(rank_correlation([1, 2], [1, 2])).all()
    assert np.isnan(rank_correlation([1, 2, 3], [1, 1, 1])).all()


def test_overlapping_intervals_are_not_apart():
    """A head that is better than the upper end of the rule, but not surely."""
    seen = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        head, offset = rng.random(160) < 0.6, rng.random(160) < 0.45
        (found,) = score(answers(head[:, None, None, None], offsets=np.stack([offset, offset * 0], -1)), seed=seed)
        best, rule = found.best_accuracy, found.baseline_accuracy
        assert found.apart == (best.low > rule.high)
        seen += best.value > rule.high > best.low
    assert seen > 3  # or nothing was tested


def test_chance_is_that_of_the_labels_own_questions():
    found = answers(np.zeros((50, 1, 1, 1)), labels=["det"] * 30 + ["obj"] * 20)
    chances = np.r_[np.full(30, 0.5), np.full(20, 0.1)].astype(np.float32)
    everything, det, obj = score(dataclasses.replace(found, right_by_chance=chances))
    assert (everything.chance, det.chance, obj.chance) == pytest.approx((0.34, 0.5, 0.1))
