"""Predictions as JSON lines, a table, or CoNLL columns."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.prediction.inputs import Item
from attention_guidance.commands.finetuning.prediction.predictor import Prediction
from attention_guidance.commands.secrets import masked
from attention_guidance.commands.studies.output import no_formula

Writer = Callable[[Data, Item, Prediction], str]
# How labels of entities begin: BIO, IOBES and its other names.
_BEGIN, _INSIDE, _END = "BSU", "IEL", "SUEL"


def entities(item: Item, prediction: Prediction) -> Iterator[dict[str, Any]]:
    """The entities of a sentence: `type`, `text`, `start`, `end` (characters), `score` (the mean of its words').

    An I- that continues none begins one, as in conlleval.
    """
    assert isinstance(prediction.labels, tuple)
    begun: list[int] = []
    labels = [*prediction.labels, "O"]
    for word, label in enumerate(labels):
        inside = label[0] in _INSIDE and label[2:] == labels[begun[0]][2:] if begun else False
        if begun and not (inside and labels[begun[-1]][0] not in _END):
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
        if label != "O":
            begun.append(word)


def _of_entities(labels: Sequence[str]) -> bool:
    """Whether the labels of a model are those of entities."""
    return {"O"} < {*labels} and all(label == "O" or re.match(f"[{_BEGIN}{_INSIDE}]-", label) for label in labels)


def json_line(data: Data, item: Item, prediction: Prediction) -> str:
    """One object: `place`, what was read, `labels` and `scores` (or `value`), and `entities` if there can be some."""
    found: dict[str, Any] = {"place": masked(item.place)}
    if item.spans:
        found |= {"text": item.text, "words": item.texts, "labels": prediction.labels, "scores": prediction.scores}
        if _of_entities(data.labels):
            found["entities"] = [*entities(item, prediction)]
    else:
        found |= {"text": item.texts[0]} if len(item.texts) == 1 else {"texts": item.texts}
        if isinstance(prediction.labels, tuple):
            found |= {"labels": prediction.labels, "scores": prediction.scores}
        else:
            found["value"] = prediction.labels
    return json.dumps(found, ensure_ascii=False) + "\n"


def conll(data: Data, item: Item, prediction: Prediction) -> str:
    """A line for each word with its label, and a blank line; white space in a word becomes `_`."""
    assert isinstance(prediction.labels, tuple)
    words = (re.sub(r"\s", "_", word) for word in item.texts)
    return "".join(f"{word}\t{label}\n" for word, label in zip(words, prediction.labels, strict=True)) + "\n"


def tsv_row(data: Data, item: Item, prediction: Prediction) -> str:
    """Place, texts, labels (separated by spaces) or value, scores; tabs and line ends in texts become spaces."""
    return "\t".join(_cells(item, prediction)) + "\n"


def csv_row(data: Data, item: Item, prediction: Prediction) -> str:
    """The same, as CSV; text that a spreadsheet takes for a formula is quoted."""
    buffer = io.StringIO()
    *texts, value, scores = _cells(item, prediction)
    # A number may begin with a minus.
    label = value if isinstance(prediction.labels, float) else no_formula(value)
    csv.writer(buffer, lineterminator="\n").writerow([*map(no_formula, texts), label, scores])
    return buffer.getvalue()


def _cells(item: Item, prediction: Prediction) -> list[str]:
    value = prediction.labels
    labels = " ".join(value) if isinstance(value, tuple) else repr(value)
    texts = (" ".join(item.texts),) if item.spans else item.texts
    cells = [masked(item.place), *texts, labels, " ".join(f"{score:.4f}" for score in prediction.scores)]
    return [" ".join(cell.split()) for cell in cells]


#: By the suffix of the output's name.
WRITERS: dict[str, Writer] = {
    ".jsonl": json_line,
    ".conll": conll,
    ".txt": conll,
    ".tsv": tsv_row,
    ".csv": csv_row,
}
