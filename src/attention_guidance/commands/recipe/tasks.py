"""The tasks of a recipe: their files, the split of a single table, and the texts that must not be trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.splits import find_files, hold_out
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.text.tables import read_table
from attention_guidance.errors import ConfigError, CorpusError

_TEST_SHARE = 0.2


def find_tasks(given: Mapping[str, Path | None], temporary: Path) -> dict[str, dict[str, Path]]:
    """The files of each task, by split.

    Args:
        given: A folder for each task, or a table, which is split into files; None for a task that is left out.
        temporary: Folder for these files.

    Raises:
        GuidanceError: There is no such file, none for the test, or a table is too small to split.
    """
    tasks = {}
    for name, place in given.items():
        if place is None:
            continue
        is_table = name == "classify" and not place.is_dir()
        tasks[name] = split_table(place, temporary) if is_table else find_files(get_task(name), {}, place)
        if "test" not in tasks[name]:
            raise ConfigError(f"{name}={place}: the folder has no file called test")
    return tasks


def split_table(table: Path, folder: Path) -> dict[str, Path]:
    """Split a table into files for training and test; equal texts are in the same file.

    Raises:
        CorpusError: It has too few texts of each label.
    """
    data = read_examples(get_task("classify"), {"train": table, "dev": table})
    try:
        rest, out = hold_out(data.splits["train"], _TEST_SHARE)
        hold_out(rest)
    except ConfigError as error:
        raise CorpusError(
            f"{table}: too few texts of each label to hold out a test set and a dev set; give more, or a folder of "
            "train, dev and test"
        ) from error
    places = {example.place for example in out}
    files = {}
    for split in ("test", "train"):
        rows = [row.values for row in read_table(table) if (row.place in places) == (split == "test")]
        files[split] = folder / f"{split}.jsonl"
        results.write_data(
            files[split], "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        )
    return files


def evaluated_texts(data: Data) -> list[str]:
    """The texts of the dev and test sets."""
    joint = " " if data.task.kind == "tokens" else "\n"
    return [
        text
        for split in ("dev", "test")
        for example in data.splits.get(split, ())
        for text in joint.join(example.texts).split("\n")
    ]
