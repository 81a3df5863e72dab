"""Where the examples of a task come from: files, a folder, the hub, or a part held out of training."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.data.tables import FORMATS
from attention_guidance.errors import ConfigError, reason_of
from attention_guidance.finetuning.tasks import GLUE, Task

if TYPE_CHECKING:
    from attention_guidance.finetuning.examples import Example

SPLITS = ("train", "dev", "test")
# What the files of a split are called in a folder.
_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
_TAGGED = (".txt", ".conll", ".conllu", ".tsv", ".bio")
_GLUE_HUB = "nyu-mll/glue"
HELD_OUT = 0.1


def find_files(task: Task, given: Mapping[str, Path], folder: Path | None = None) -> dict[str, Path]:
    """The files of a task's splits.

    The labels of GLUE's test sets are secret: its development set is tested on, and the one to choose on is held out of
    training.

    Args:
        task: which.
        given: files by split; they come before those of the folder.
        folder: where files are called train, dev (or valid, validation) and test.

    Raises:
        ConfigError: there are none, several of one name, or the hub cannot be reached.
    """
    found = ({} if folder is None else _in_folder(task, folder, given)) | dict(given)
    if not found and task.name in GLUE:
        return _from_hub(task)
    if "train" not in found:
        raise ConfigError("--train missing: name the file to train on, or with --data the folder of all files")
    return found


def _in_folder(task: Task, folder: Path, given: Collection[str]) -> dict[str, Path]:
    """The files of the splits that are not given."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one of files called train, dev and test")
    suffixes = _TAGGED if task.kind == "tokens" else FORMATS
    found = {}
    for split, names in ((split, names) for split, names in _NAMES.items() if split not in given):
        files = sorted(
            file for file in folder.iterdir() if file.stem.lower() in names and file.suffix.lower() in suffixes
        )
        if len(files) > 1:
            raise ConfigError(f"{folder}: several files of {split} ({', '.join(file.name for file in files)})")
        if files:
            found[split] = files[0]
    if "train" not in {*found, *given}:
        raise ConfigError(f"{folder}: no file called train there that ends in {', '.join(suffixes)}")
    return found


def _from_hub(task: Task) -> dict[str, Path]:
    """GLUE's Parquet files, fetched once; its development set as the test set."""
    from huggingface_hub import HfApi, hf_hub_download

    part = "validation_matched" if task.name == "mnli" else "validation"
    try:
        names = HfApi().list_repo_files(_GLUE_HUB, repo_type="dataset")
        return {
            split: Path(
                hf_hub_download(
                    _GLUE_HUB,
                    next(name for name in names if name.startswith(f"{task.name}/{file}-")),
                    repo_type="dataset",
                )
            )
            for split, file in (("train", "train"), ("test", part))
        }
    except Exception as error:  # the hub raises all kinds
        raise ConfigError(
            f"the files of {task.name} could not be fetched from the hub ({reason_of(error)}); give your own, "
            "a folder of train and test"
        ) from error


def hold_out(
    examples: Sequence[Example], share: float = HELD_OUT, seed: int = 1
) -> tuple[list[Example], list[Example]]:
    """Split examples into those that stay and about such a share that does not.

    Alike texts stay together, and a label that would be in the second part alone stays.

    Raises:
        ConfigError: there are too few different texts, or too few of each label.
    """
    texts = list(dict.fromkeys(example.texts for example in examples))
    where = f" ({examples[0].place})" if examples else ""
    if len(texts) < 2:
        raise ConfigError(
            f"{len(texts)} text to train on{where}: some would be held out; give more (blank lines divide sentences, "
            "for ner), or a file of its own to choose on (--dev)"
        )
    order = np.random.default_rng(seed).permutation(len(texts))
    out = {texts[n] for n in order[: max(1, round(share * len(texts)))]}
    known = {label for example in examples if example.texts not in out for label in _labels(example)}
    for example in examples:
        if example.texts in out and not known.issuperset(_labels(example)):
            out.remove(example.texts)
            known.update(_labels(example))
    if not out:
        raise ConfigError(f"too few texts of each label{where}: some would be held out; give more, or a --dev file")
    return [e for e in examples if e.texts not in out], [e for e in examples if e.texts in out]


def _labels(example: Example) -> Collection[object]:
    """The labels of a text or of its words; none of a number."""
    label = example.label
    if isinstance(label, float):
        return ()
    if isinstance(label, tuple) and label and isinstance(label[0], float):
        return [number for number, is_on in enumerate(label) if is_on]
    return label if isinstance(label, tuple) else (label,)
