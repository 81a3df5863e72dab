"""Files of predictions, written by `finetune` and read by `downstream`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.annotations.tagged import write_tagged
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.scoring.paired import Predictions
from attention_guidance.errors import ConfigError, reason_of

_FOLDER = "predictions"
_FILE = re.compile(r"(train|dev|test|mismatched)-(seed-\d+(?:-combined)?|baseline)\.(txt|tsv)")


def write_predictions(
    folder: Path, data: Data, split: str, seed: int | None, predictions: Sequence[Any], *, combined: bool = False
) -> None:
    """Write predictions and gold labels to the output folder of `finetune`.

    Args:
        folder: the output folder.
        data: the task.
        split: the split predicted.
        seed: seed of the model; None for the baseline.
        predictions: as `Example.label`.
        combined: whether the model is combined with the baseline.
    """
    path = folder / _FOLDER / _name(split, seed, combined)
    examples = data.splits[split]
    if data.task.kind == "tokens":
        names = data.labels
        sentences = (
            (example.texts, [names[n] for n in example.label], [names[n] for n in guess])
            for example, guess in zip(examples, predictions, strict=True)
        )
        write_tagged(path.with_name(f"{path.name}.txt"), sentences)
        return

    def shown(label: Any) -> str:
        if data.task.kind == "regress":
            return repr(float(label))
        if data.task.kind == "multilabel":
            return "|".join(name for name, on in zip(data.labels, label, strict=True) if on)
        return str(data.labels[label])

    lines = [
        "\t".join([*(" ".join(text.split()) for text in example.texts), shown(example.label), shown(guess)])
        for example, guess in zip(examples, predictions, strict=True)
    ]
    header = "\t".join([*(f"text{n}" for n in range(1, len(examples[0].texts) + 1)), "gold", "predicted"])
    results.write_data(path.with_name(f"{path.name}.tsv"), "\n".join([header, *lines, ""]))


def remove_predictions(folder: Path) -> None:
    """Remove all files of `write_predictions`, so that none of other seeds or another task remain."""
    for file in (folder / _FOLDER).glob("*"):
        if _FILE.fullmatch(file.name):
            file.unlink()


def _name(split: str, seed: int | None, combined: bool) -> str:
    return f"{split}-baseline" if seed is None else f"{split}-seed-{seed}{'-combined' * combined}"


def read_predictions(
    folder: Path, split: str, kind: str, seeds: Iterable[int | None], *, combined: bool = False
) -> Predictions:
    """Read the predictions that `finetune` has written, of seeds or (None) of the baseline.

    Raises:
        ConfigError: the predictions of a seed are missing.
    """
    suffix = "txt" if kind == "tokens" else "tsv"
    files = [folder / _FOLDER / f"{_name(split, seed, combined)}.{suffix}" for seed in seeds]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file}: not found; fine-tune this model again")
    read = [_read(file, kind) for file in files]
    return Predictions(read[0][0], tuple(predicted for _, predicted in read))


def _read(file: Path, kind: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    try:
        return _read_tokens(file) if kind == "tokens" else _read_rows(file, kind)
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{file}: damaged ({reason_of(error)}); fine-tune this model again") from error


def _read_tokens(file: Path) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    gold, predicted = [], []
    # Bytes, as written: in text mode, a carriage return in a word would end the line.
    for block in file.read_bytes().decode().split("\n\n"):
        rows = [line.rsplit("\t" if "\t" in line else " ", 2) for line in block.split("\n") if line]
        gold.append(tuple(row[1] for row in rows))
        predicted.append(tuple(row[2] for row in rows))
    return tuple(gold), tuple(predicted)


def _read_rows(file: Path, kind: str) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def value(text: str) -> Any:
        if kind == "regress":
            return float(text)
        return tuple(label for label in text.split("|") if label) if kind == "multilabel" else text

    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").split("\n")[1:] if line]
    return tuple(value(row[-2]) for row in rows), tuple(value(row[-1]) for row in rows)
