"""Predictions as JSON lines, a table, or CoNLL columns."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from attention_guidance.commands.finetuning.prediction.inputs import Item
from attention_guidance.commands.finetuning.prediction.predictor import Prediction

Writer = Callable[[Item, Prediction], str]


def entities(item: Item, prediction: Prediction) -> Iterator[dict[str, Any]]:
    """The entities of a sentence: `type`, `text`, `start`, `end` (in characters), `score` (the mean over its words)."""
    assert isinstance(prediction.labels, tuple)
    begun: list[int] = []
    labels = [*prediction.labels, "O"]
    for word, label in enumerate(labels):
        if begun and not (label[:2] == "I-" and label[2:] == labels[begun[0]][2:]):
            start, end = item.spans[begun[0]][0], item.spans[begun[-1]][1]
            score = sum(prediction.scores[n] for n in begun) / len(begun)
            yield {
                "type": labels[begun[0]][2:],
                "text": item.text[start:end],
                "start": start,
                "end": end,
                "score": score,
            }
            begun = []
        if label[:2] in ("B-", "I-"):
            begun.append(word)


def json_line(item: Item, prediction: Prediction) -> str:
    """A JSON object: `place`, the text, `labels` and `scores` (or `value`), and `entities` if the labels are BIO."""
    found: dict[str, Any] = {"place": item.place}
    if item.spans:
        found |= {"text": item.text, "words": item.texts, "labels": prediction.labels, "scores": prediction.scores}
        if all(label == "O" or label[:2] in ("B-", "I-") for label in prediction.labels):  # type: ignore[union-attr]
            found["entities"] = [*entities(item, prediction)]
    else:
        found |= {"text": item.texts[0]} if len(item.texts) == 1 else {"texts": item.texts}
        if isinstance(prediction.labels, tuple):
            found |= {"labels": prediction.labels, "scores": prediction.scores}
        else:
            found["value"] = prediction.labels
    return json.dumps(found, ensure_ascii=False) + "\n"


def conll(item: Item, prediction: Prediction) -> str:
    """A line for each word with its label, and a blank line; white space in a word becomes `_`."""
    assert isinstance(prediction.labels, tuple)
    words = (re.sub(r"\s", "_", word) for word in item.texts)
    return "".join(f"{word}\t{label}\n" for word, label in zip(words, prediction.labels, strict=True)) + "\n"


def tsv_row(item: Item, prediction: Prediction) -> str:
    """Tab-separated place, texts, labels (separated by spaces) or value, scores; white space becomes single spaces."""
    value = prediction.labels
    labels = " ".join(value) if isinstance(value, tuple) else repr(value)
    texts = (" ".join(item.texts),) if item.spans else item.texts
    cells = [item.place, *texts, labels, " ".join(f"{score:.4f}" for score in prediction.scores)]
    return "\t".join(" ".join(cell.split()) for cell in cells) + "\n"


def csv_row(item: Item, prediction: Prediction) -> str:
    """The same as `tsv_row`, as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(tsv_row(item, prediction)[:-1].split("\t"))
    return buffer.getvalue()


#: By the suffix of the output's name.
WRITERS: dict[str, Writer] = {
    ".jsonl": json_line,
    ".conll": conll,
    ".txt": conll,
    ".tsv": tsv_row,
    ".csv": csv_row,
}
