"""Files of every kind are read as they were meant, and scored as scikit-learn and scipy score what is written.

What a file means is known here, as it is made here; scores are those of the libraries on predictions that are read from
the disk: 10,200 predictions of 2,550 files.
"""

from __future__ import annotations

import csv
import io
import json
import random
import warnings

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from sklearn.preprocessing import MultiLabelBinarizer

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.scoring.paired import difference
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions, write_predictions
from attention_guidance.commands.finetuning.scoring.scores import evaluate

FILES, PREDICTIONS = 75, 4


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


WRITERS = {"jsonl": as_jsonl, "csv": as_csv}

# A label's name in the results, and its spellings in files; then the spellings of no label.
ONE = {
    "numbers": ("jsonl", {"0": [0, "0", 0.0, "0.0"], "1": [1, "1", 1.0, " 1.0"]}, [None, "-", "", float("nan")]),
    "numbers of csv": ("csv", {"0": ["0", "0.0"], "1": ["1", "1.00"], "2": ["2", "2."]}, ["", "-", "null", "NaN", -1]),
    "truth": ("jsonl", {"False": [False, "false", "FALSE"], "True": [True, "True", "true"]}, [None, "null"]),
    "match": ("csv", {"no match": ["no match", " no  match"], "match": ["match"]}, ["-", ""]),
    "negation": ("jsonl", {"unacceptable": ["unacceptable"], "acceptable": ["acceptable"]}, ["-", None]),
    "a negative number": ("csv", {"-1": ["-1", "-1.0"], "1": ["1", "+1"]}, ["-"]),
    "entailment": (
        "jsonl",
        {name: [name] for name in ("contradiction", "entailment", "neutral")},
        ["-", None],
    ),
    "many": ("csv", {str(n): [n, float(n)] for n in (2, 10, 100, 30, 7)}, [""]),
}
POSITIVE = {"numbers": "1", "truth": "True", "match": "match", "negation": "acceptable", "a negative number": "1"}


def check_one(tmp_path, style, seed):
    chance = random.Random(f"{style} {seed}")
    suffix, forms, missing = ONE[style]
    names = list(forms)
    meant, files = {}, {}
    for split in ("train", "dev"):
        gold = [chance.choice(names) for _ in range(chance.randint(2, 14))]
        gold = [*names, *gold] if split == "train" else gold
        chance.shuffle(gold)
        rows = [{"text": f"{split} {n}", "label": chance.choice(forms[name])} for n, name in enumerate(gold)]
        for n in range(chance.randint(0, 3)):
            rows.insert(chance.randrange(1, len(rows) + 1), {"text": f"none {n}", "label": chance.choice(missing)})
        meant[split], files[split] = gold, tmp_path / f"{split}.{suffix}"
        files[split].write_text(WRITERS[suffix](rows))
    data = read_examples(get_task("classify"), files)
    assert {split: [data.labels[e.label] for e in data.splits[split]] for split in meant} == meant
    assert data.positive == POSITIVE.get(style)
    examples = data.splits["dev"]
    for number in range(PREDICTIONS):
        predictions = [chance.randrange(len(names)) if chance.random() < 0.5 else e.label for e in examples]
        if number == 3:
            predictions = [chance.randrange(len(names))] * len(examples)
        write_predictions(tmp_path, data, "dev", number, predictions)
        read = read_predictions(tmp_path, "dev", "classify", [number])
        gold, guess = list(read.gold), list(read.predicted[0])
        assert gold == meant["dev"]
        expected = {
            "accuracy": accuracy_score(gold, guess),
            "matthews": matthews_corrcoef(gold, guess),
            "macro_f1": f1_score(gold, guess, average="macro", zero_division=0),
        }
        if style in POSITIVE:
            both = ([label == POSITIVE[style] for label in side] for side in (gold, guess))
            expected["f1"] = f1_score(*both, zero_division=0)
        found = evaluate(data, examples, predictions)
        assert found == pytest.approx(expected)
        for metric in expected.keys() - {"macro_f1"}:
            gap = difference(read, read, metric, "classify", labels=data.labels, resamples=2)
            assert gap.first == pytest.approx(expected[metric])


@pytest.mark.parametrize("style", ONE)
def test_one_label(tmp_path, style):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about a single class
        for seed in range(FILES):
            check_one(tmp_path, style, seed)


NAMES = ["toxic", "severe insult", "obscene", "threat, veiled"]
# Several labels: the file's format, and the content of a cell, given which labels are on.
SEVERAL = {
    "names": ("jsonl", lambda on, names: {"labels": [name for name in names if name in on]}),
    "text of json": ("csv", lambda on, names: {"labels": json.dumps(on)}),
    "text of python": ("csv", lambda on, names: {"labels": repr(on)}),
    "a tuple": ("csv", lambda on, names: {"labels": repr(tuple(on))}),
    "numpy's names": ("csv", lambda on, names: {"labels": f"[{' '.join(map(repr, on))}]"}),
    "bars": ("csv", lambda on, names: {"labels": " | ".join(on).replace(", ", " ")}),
    "semicolons": ("csv", lambda on, names: {"labels": "; ".join(on).replace(", ", " ")}),
    "commas": ("csv", lambda on, names: {"labels": ",".join(name.replace(", ", " ") for name in on)}),
    "0 and 1": ("jsonl", lambda on, names: {"labels": [int(name in on) for name in names]}),
    "0.0 and 1.0": ("jsonl", lambda on, names: {"labels": [float(name in on) for name in names]}),
    "truth": ("jsonl", lambda on, names: {"labels": [name in on for name in names]}),
    "text of 0 and 1": ("csv", lambda on, names: {"labels": str([int(name in on) for name in names])}),
    "numpy's 0 and 1": ("csv", lambda on, names: {"labels": str(np.array([int(name in on) for name in names]))}),
    "0,1": ("csv", lambda on, names: {"labels": ",".join(str(int(name in on)) for name in names)}),
    "0 1": ("csv", lambda on, names: {"labels": " ".join(str(int(name in on)) for name in names)}),
    "columns": ("csv", lambda on, names: {"id": "x7"} | {name: int(name in on) for name in names}),
    "columns of truth": ("csv", lambda on, names: {name: name in on for name in names}),
    "an object": ("jsonl", lambda on, names: {"labels": {name: int(name in on) for name in names}}),
}


def expected_of_several(gold, guess):
    sides = MultiLabelBinarizer().fit([*gold, *guess])
    truth, said = sides.transform(gold), sides.transform(guess)
    if len(sides.classes_) == 0:
        return {"macro_f1": 0.0, "micro_f1": 0.0}
    if len(sides.classes_) == 1:
        one = f1_score(truth[:, 0], said[:, 0], zero_division=0)
        return {"macro_f1": one, "micro_f1": one}
    return {f"{name}_f1": f1_score(truth, said, average=name, zero_division=0) for name in ("macro", "micro")}


def check_several(tmp_path, style, seed):
    chance = random.Random(f"{style} {seed}")
    suffix, cell = SEVERAL[style]
    numbered = "0" in style or style == "truth"
    # A single column, such as `toxic`, is on or off; a list needs two numbers.
    names = NAMES[: chance.randint(1 if "columns" in style or not numbered else 3, 4)]
    meant, files = {}, {}
    for split in ("train", "dev"):
        gold = [[name for name in names if chance.random() < 0.4] for _ in range(chance.randint(3, 12))]
        if split == "train":
            gold += [[name] for name in names] + [[]]
        rows = [{"text": f"{split} {n}"} | cell(on, names) for n, on in enumerate(gold)]
        files[split] = tmp_path / f"{split}.{suffix}"
        files[split].write_text(WRITERS[suffix](rows))
        shown = {name: str(names.index(name)) if numbered else name for name in names}
        if style in ("bars", "semicolons", "commas"):
            shown = {name: name.replace(", ", " ") for name in names}
        meant[split] = [sorted(shown[name] for name in on) for on in gold]
    data = read_examples(get_task("multilabel"), files)
    for split, gold in meant.items():
        read = [sorted(data.labels[n] for n, on in enumerate(e.label) if on) for e in data.splits[split]]
        assert read == gold
    examples = data.splits["dev"]
    for number in range(PREDICTIONS):
        flip = (0.0, 0.1, 0.5, 1.0)[number]
        predictions = [tuple(float(on != (chance.random() < flip)) for on in e.label) for e in examples]
        write_predictions(tmp_path, data, "dev", number, predictions)
        read = read_predictions(tmp_path, "dev", "multilabel", [number])
        gold, guess = list(read.gold), list(read.predicted[0])
        assert [sorted(labels) for labels in gold] == meant["dev"]
        found = evaluate(data, examples, predictions)
        expected = expected_of_several(gold, guess)
        exact = np.mean([set(g) == set(p) for g, p in zip(gold, guess, strict=True)])
        wrong = sum(len(set(g) ^ set(p)) for g, p in zip(gold, guess, strict=True)) / len(gold) / len(data.labels)
        assert found == pytest.approx(expected | {"exact_match": exact, "hamming_loss": wrong})
        gap = difference(read, read, "macro_f1", "multilabel", labels=data.labels, resamples=2)
        assert gap.first == pytest.approx(expected["macro_f1"])


@pytest.mark.parametrize("style", SEVERAL)
def test_several_labels(tmp_path, style):
    for seed in range(FILES):
        check_several(tmp_path, style, seed)


@pytest.mark.parametrize("unit", [(0.5, 0.3), (1920, 11), (-3e6, 1e3), (1e9, 1.0)])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_numbers(tmp_path, unit, suffix):
    warnings.simplefilter("ignore")  # scipy warns about constants
    for seed in range(FILES):
        chance = random.Random(f"{unit} {suffix} {seed}")
        files, meant = {}, {}
        for split in ("train", "dev"):
            meant[split] = [chance.gauss(*unit) for _ in range(chance.randint(2, 12))]
            rows = [{"text": f"{split} {n}", "score": value} for n, value in enumerate(meant[split])]
            rows.insert(1, {"text": "none", "score": chance.choice(["", "-", "nan", "null"])})
            files[split] = tmp_path / f"{split}.{suffix}"
            files[split].write_text(WRITERS[suffix](rows))
        data = read_examples(get_task("regress"), files)
        assert {split: [e.label for e in data.splits[split]] for split in meant} == meant
        for number in range(PREDICTIONS):
            spread = (0.0, 0.1, 1.0, 3.0)[number]
            predictions = [value * (number != 3) + chance.gauss(0, spread) * unit[1] for value in meant["dev"]]
            if seed % 10 == 0 and number == 3:
                predictions = [unit[0]] * len(predictions)
            write_predictions(tmp_path, data, "dev", number, predictions)
            read = read_predictions(tmp_path, "dev", "regress", [number])
            gold, guess = np.array(read.gold), np.array(read.predicted[0])
            expected = {"pearson": pearsonr(gold, guess)[0], "spearman": spearmanr(gold, guess)[0]}
            expected = {name: 0.0 if np.isnan(value) else value for name, value in expected.items()}
            found = evaluate(data, data.splits["dev"], predictions)
            assert found == pytest.approx(expected | {"mean_squared_error": np.mean((gold - guess) ** 2)})
            gap = difference(read, read, "pearson", "regress", resamples=2)
            assert gap.first == pytest.approx(expected["pearson"], abs=1e-7)
