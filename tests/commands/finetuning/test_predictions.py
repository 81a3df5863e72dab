"""Files of predictions: reading returns what was written, whatever the names of labels."""

from __future__ import annotations

import pytest

from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions, write_predictions


@pytest.mark.parametrize("labels", [("O", "B-natural person", "I-natural person"), ("O", "B-X", "I-X")])
def test_words(tmp_path, labels):
    sentences = [(("New York", "is", "big"), (1, 0, 2)), (("x\ry",), (0,))]
    examples = [Example(words, label, "") for words, label in sentences]
    data = Data(get_task("ner"), labels, {"test": examples}, {})
    write_predictions(tmp_path, data, "test", 1, [(1, 2, 0), (1,)])
    read = read_predictions(tmp_path, "test", "tokens", [1])
    assert read.gold == ((labels[1], labels[0], labels[2]), (labels[0],))
    assert read.predicted == (((labels[1], labels[2], labels[0]), (labels[1],)),)


@pytest.mark.parametrize(
    ("task", "labels", "gold", "predicted", "told"),
    [
        ("classify", ("a b", "#c,d|"), [0, 1], [1, 1], ("a b", "#c,d|", "#c,d|")),
        ("multilabel", ("a b", "c, d"), [(1, 1), (0, 0)], [(1, 0), (0, 0)], (("a b", "c, d"), (), ("a b",))),
        ("regress", (), [0.1, -2.0], [1e-17, 3.0], (0.1, -2.0, 1e-17)),
    ],
)
def test_rows(tmp_path, task, labels, gold, predicted, told):
    examples = [Example((f"tab\there\nline {n}",), label, "") for n, label in enumerate(gold)]
    data = Data(get_task(task), labels, {"test": examples}, {})
    write_predictions(tmp_path, data, "test", None, predicted)
    read = read_predictions(tmp_path, "test", get_task(task).kind, [None])
    assert (*read.gold, read.predicted[0][0]) == told
