"""Numbers are predicted in the unit of the file; intervals stay in the range of a metric; thresholds."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from finetunings import read
from sklearn.metrics import f1_score
from transformers import AutoConfig, AutoTokenizer

from attention_guidance.commands.finetuning.decoding import decode
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.encoding import encode, scores_of
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import fit
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.fits.predict import predict
from attention_guidance.commands.finetuning.scoring.outcome import summary
from attention_guidance.commands.finetuning.scoring.paired import Predictions, difference
from attention_guidance.commands.finetuning.scoring.scores import choose_threshold, evaluate, per_class
from attention_guidance.commands.finetuning.settings import FitSettings

FAST = ["--epochs", "2", "--seeds", "2", "--no-baseline", "-q", "--learning-rates", "5e-3", "--batch-size", "8"]


@pytest.mark.parametrize(
    ("values", "spread"), [((1900, 1920, 1940), 20), ((-3e6, -2.9e6, -2.8e6), 1e5), ((0, 1e-4, 2e-4), 1e-4)]
)
def test_numbers_are_predicted_in_their_own_unit(tmp_path, cli, whole_run, table, values, spread):
    out = tmp_path / "out"
    assert cli("finetune", whole_run, "--task", "regress", *table(values, "text\tscore", n=96), "-o", out, *FAST) == 0
    rows = [line.split("\t") for line in (out / "predictions" / "test-seed-1.tsv").read_text().splitlines()[1:]]
    gold, guess = (np.array([float(row[n]) for row in rows]) for n in (1, 2))
    assert set(gold) <= set(map(float, values))
    assert np.all(np.abs(guess - values[1]) < 3 * spread)
    content = read(out)
    assert content["seeds"][0]["test"]["mean_squared_error"] == pytest.approx(np.mean((gold - guess) ** 2))
    config = AutoConfig.from_pretrained(out / "model")
    train = [float(line.split("\t")[1]) for line in (tmp_path / "train.tsv").read_text().splitlines()[1:]]
    assert (config.target_mean, config.target_deviation) == pytest.approx((np.mean(train), np.std(train)))
    # Fine-tuned again: the previous unit is discarded.
    data = Data(get_task("regress"), (), {"train": [Example(("a",), 1.0, ""), Example(("b",), 2.0, "")]}, {})
    assert not hasattr(new_model(data, str(out / "model"), FitSettings()).config, "target_mean")


def test_constant_predictions_are_noted(tmp_path, cli, whole_run, table, monkeypatch):
    def constant(data, scores):
        return [2.5 for _ in scores]

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.decode", constant)
    out = tmp_path / "out"
    files = table([1, 2], "text\tscore", n=24)
    assert cli("finetune", whole_run, "--task", "regress", *files, "-o", out, *FAST) == 0
    assert read(out)["scores"]["pearson"]["mean"] == 0
    for split in ("dev", "test"):
        said = f"seed 2 predicts 2.5 for all of {split}: correlations are undefined, reported as 0"
        assert said in read(out)["notes"]


@pytest.mark.parametrize(("task", "alike"), [("classify", [1, 1]), ("classify", [1, 0]), ("mrpc", [0, 0])])
def test_one_label_for_all_is_noted_as_its_score_looks_good(tmp_path, cli, whole_run, table, monkeypatch, task, alike):
    """Always predicting the positive label has an F1 of 0.8 if two thirds have it."""

    def constant(data, scores):
        return [alike[n % 2] for n in range(len(scores))]

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.decode", constant)
    out = tmp_path / "out"
    header = "sentence1\tsentence2\tlabel" if task == "mrpc" else "text\tlabel"
    files = table(["no", "yes"], header, pair=task == "mrpc", n=24)
    assert cli("finetune", whole_run, "--task", task, *files, "-o", out, *FAST) == 0
    for split in ("dev", "test"):
        said = f"predicts {['no', 'yes'][alike[0]]} for all of {split}: its score is that of a constant prediction"
        assert any(said in note for note in read(out)["notes"]) == (len({*alike}) == 1)


@pytest.mark.parametrize(
    ("metric", "kind", "most"), [("pearson", "regress", 2), ("accuracy", "classify", 1), ("matthews", "classify", 2)]
)
def test_intervals_stay_where_a_difference_can_be(metric, kind, most):
    """Seeds at both ends of the range, for which Student's interval exceeds it."""
    chance = random.Random(0)
    gold = tuple(chance.gauss(0, 1) if kind == "regress" else chance.choice("01") for _ in range(40))
    against = tuple(-g if kind == "regress" else str(1 - int(g)) for g in gold)
    sides = Predictions(gold, (gold, against)), Predictions(gold, (against, gold))
    found = difference(*sides, metric, kind)
    assert (found.low, found.high) == (-most, most)
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("metric", "values", "ends"),
    [
        ("pearson", [0.9, -0.8], (-1, 1)),
        ("accuracy", [0.99, 0.5, 0.98], (0.13, 1)),
        ("mean_squared_error", [1.0, 5.0], (0, 28.4)),
    ],
)
def test_intervals_of_means_stay_where_the_metric_can_be(metric, values, ends):
    found = summary(values, metric)
    assert (found["low"], found["high"]) == pytest.approx(ends, abs=0.02)
    assert found["mean"] == statistics.fmean(values)
    narrow = summary([0.5, 0.51, 0.52], metric)
    assert narrow["high"] - 0.51 == pytest.approx(0.51 - narrow["low"])


def several(*labels):
    return [Example((str(n),), row, "") for n, row in enumerate(labels)]


def test_a_label_in_neither_gold_nor_predictions_has_no_f1():
    """Several labels of a text are treated like one label."""
    one = Data(get_task("classify"), ("a", "b", "c"), {}, {})
    gold = [Example((str(n),), label, "") for n, label in enumerate((0, 0, 1, 1))]
    assert evaluate(one, gold, [0, 0, 1, 0])["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert list(per_class(one, gold, [0, 0, 1, 0])) == ["a", "b"]
    data = Data(get_task("multilabel"), ("a", "b", "c"), {}, {})
    gold = several((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 1.0, 0.0))
    guess = [(1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    assert evaluate(data, gold, guess)["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert per_class(data, gold, guess)["a"]["f1-score"] == pytest.approx(0.8)
    assert list(per_class(data, gold, guess)) == ["a", "b"]
    # A label that is only predicted counts.
    guess[3] = (0.0, 1.0, 1.0)
    assert evaluate(data, gold, guess)["macro_f1"] == pytest.approx(2 / 3)


def test_one_label_alone_is_not_two_classes():
    data = Data(get_task("multilabel"), ("toxic",), {}, {})
    gold, guess = [(1.0,), (0.0,), (0.0,), (1.0,)], [(1.0,), (0.0,), (1.0,), (0.0,)]
    found = evaluate(data, several(*gold), guess)
    assert found == {"macro_f1": 0.5, "micro_f1": 0.5, "hamming_loss": 0.5, "exact_match": 0.5}
    assert found["macro_f1"] == f1_score(gold, guess)


def test_the_threshold_is_the_best_on_dev():
    data = Data(get_task("multilabel"), ("a", "b"), {}, {})
    gold = several((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.0))
    for low, high, best in ((0.11, 0.29, 0.25), (0.71, 0.93, 0.75), (0.3, 0.7, 0.5)):
        shares = np.array([[high if on else low for on in example.label] for example in gold])
        assert choose_threshold(data, gold, shares) == best


def test_predictions_are_from_the_threshold_on(whole_run, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    chance = random.Random(0)
    splits = {}
    for split, n in (("train", 64), ("dev", 24)):
        rows = [(float(chance.random() < 0.2), float(chance.random() < 0.1)) for _ in range(n)]
        splits[split] = [Example((("aa " if a else "") + ("ee " if b else "") + f"bc {k}",), (a, b), "")
                         for k, (a, b) in enumerate(rows)]  # fmt: skip
    data = Data(get_task("multilabel"), ("a", "b"), splits, {})
    encoded = {split: encode(data, items, tokenizer, 32) for split, items in splits.items()}
    settings = FitSettings(epochs=3, batch_size=8, dropout=0.0, precision="fp32")
    how = {"learning_rate": 2e-3, "seed": 1, "settings": settings}
    found, model = fit(data, encoded, str(whole_run / "model"), tokenizer, **how)
    assert found.threshold == model.config.threshold
    model.save_pretrained(tmp_path)
    for fitted in (model, new_model(data, str(tmp_path), settings, fresh=False).eval()):
        outputs = predict(fitted, encoded["dev"], tokenizer, settings)
        predictions = decode(data, scores_of(data, encoded["dev"], splits["dev"], outputs))
        assert evaluate(data, splits["dev"], predictions) == found.dev[found.epoch - 1]
    # Rare labels seldom reach a threshold of 0.5.
    assert found.threshold < 0.5
