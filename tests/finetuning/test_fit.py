"""One fine-tuning: the best epoch's weights come back, without guidance; outputs become predictions."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import AutoTokenizer

from attention_guidance.finetuning.encoding import Encoded, decode, encode
from attention_guidance.finetuning.examples import Data, Example
from attention_guidance.finetuning.fit import FitSettings, fit, predict
from attention_guidance.finetuning.scores import evaluate
from attention_guidance.finetuning.tasks import get_task


def examples(n, seed, swapped=False):
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        label = chance.randrange(2)
        text = ("aa" if label else "oo") + " " + "".join(chance.choices("bcdf", k=4))
        made.append(Example((text,), 1 - label if swapped else label, ""))
    return made


def test_the_best_epoch_comes_back_without_guidance(whole_run):
    """What is right in training is wrong on dev, so the model gets worse there with every epoch."""
    source = str(whole_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    splits = {"train": examples(96, 0), "dev": examples(40, 1, swapped=True)}
    data = Data(get_task("classify"), ("x", "y"), splits, {})
    encoded = {split: encode(data, items, tokenizer, 32) for split, items in splits.items()}
    settings = FitSettings(epochs=6, batch_size=8, dropout=0.0, heads="next:1", weight=0.01)
    found, model = fit(data, encoded, source, tokenizer, learning_rate=5e-3, seed=1, settings=settings)
    accuracies = [metrics["accuracy"] for metrics in found.dev]
    assert accuracies[-1] < max(accuracies)
    assert found.epoch == 1 + accuracies.index(max(accuracies))
    outputs = predict(model, encoded["dev"], tokenizer, settings)
    assert (
        evaluate(data, splits["dev"], decode(data, encoded["dev"], splits["dev"], outputs))
        == found.dev[found.epoch - 1]
    )
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert found.tokens_per_second > 0


@pytest.mark.parametrize(
    ("task", "labels", "logits", "expected"),
    [
        ("classify", ("x", "y", "z"), [0.2, 0.9, -1], 1),
        ("multilabel", ("x", "y", "z"), [0.4, -0.4, 1.4], (1.0, 0.0, 1.0)),
        ("regress", (), [1.5], 1.5),
    ],
)
def test_outputs_become_predictions(task, labels, logits, expected):
    data = Data(get_task(task), labels, {}, {})
    encoded = Encoded([{}], [0], [[]])
    assert decode(data, encoded, [Example(("a",), expected, "")], [np.array(logits)]) == [expected]
