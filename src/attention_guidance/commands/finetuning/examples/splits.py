"""Find the splits of a task: files, a folder, the hub, or a part held out of training."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from attention_guidance.commands.finetuning.examples.overlaps import is_several, text_key
from attention_guidance.commands.finetuning.examples.tasks import GLUE, Task
from attention_guidance.commands.text.tables import FORMATS, LOOSE_FORMATS
from attention_guidance.errors import ConfigError, reason_of

if TYPE_CHECKING:
    from attention_guidance.commands.finetuning.examples.data import Data, Example

SPLITS = ("train", "dev", "test", "mismatched")
# File names of each split in a folder.
_NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation"), "test": ("test",)}
# MNLI's development sets: matched (genres of training) and mismatched (other genres).
_NAMES_OF_MNLI = {
    "test": ("test", "dev_matched", "validation_matched"),
    "mismatched": ("mismatched", "test_mismatched", "dev_mismatched", "validation_mismatched"),
}
_TAGGED = (".txt", ".conll", ".conllu", ".tsv", ".bio", ".iob", ".iob2")
_GLUE_HUB = "nyu-mll/glue"
HELD_OUT = 0.1
# Stands for an empty set of labels. (The order of a set with None differs between processes.)
_NO_LABEL = -1
# With 20 examples, one more or less is 5 points of accuracy, as much as models differ by.
FEW = 20
_WHY = {
    True: "learning rate and epoch are chosen by chance; give a larger development set",
    False: "its scores are unreliable",
}


def find_files(task: Task, given: Mapping[str, Path], folder: Path | None = None) -> dict[str, Path]:
    """The files of a task's splits.

    The labels of GLUE's test sets are secret, so its development set serves as the test set, and a part of training is
    held out as dev. MNLI has two development sets: matched serves as `test`, mismatched as `mismatched`.

    Args:
        task: the task.
        given: files by split; they take precedence over those of the folder.
        folder: a folder with files called train, dev (or valid, validation) and test.

    Raises:
        ConfigError: there is no training file, several files match a split, a split is not of the task, or the hub
            cannot be reached.
    """
    if "mismatched" in given and task.name != "mnli":
        raise ConfigError(f"mismatched={given['mismatched']}: only mnli has this split, not {task.name}")
    found = ({} if folder is None else _in_folder(task, folder, given)) | dict(given)
    if not found and task.name in GLUE:
        return _from_hub(task)
    if "train" not in found:
        raise ConfigError(
            "`train` missing: give the file to train on, or `data`, a folder with the files of all splits"
        )
    return found


def _in_folder(task: Task, folder: Path, given: Collection[str]) -> dict[str, Path]:
    """Files of the splits that are not in `given`."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected a folder with files called train, dev and test")
    # A file that may be a table counts as one only if no certain table has the name.
    suffixes = (_TAGGED, ()) if task.kind == "tokens" else (FORMATS, LOOSE_FORMATS)
    found = {}
    of_splits = _NAMES | (_NAMES_OF_MNLI if task.name == "mnli" else {})
    for split, names in ((split, names) for split, names in of_splits.items() if split not in given):
        called = sorted(file for file in folder.iterdir() if file.stem.lower() in names)
        sure, loose = ([file for file in called if file.suffix.lower() in some] for some in suffixes)
        files = sure or loose
        if len(files) > 1:
            raise ConfigError(f"{folder}: several files for {split} ({', '.join(file.name for file in files)})")
        if files:
            found[split] = files[0]
    if "train" not in {*found, *given}:
        raise ConfigError(f"{folder}: no file called train that ends in {', '.join(sum(suffixes, ()))}")
    return found


def _from_hub(task: Task) -> dict[str, Path]:
    """GLUE's Parquet files, downloaded once; its development set serves as the test set."""
    from huggingface_hub import HfApi, hf_hub_download

    parts = [("train", "train"), ("test", "validation")]
    if task.name == "mnli":
        parts = [("train", "train"), ("test", "validation_matched"), ("mismatched", "validation_mismatched")]
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
            for split, file in parts
        }
    except Exception as error:  # the hub raises all kinds
        raise ConfigError(
            f"cannot download the files of {task.name} from the hub ({reason_of(error)}); give your own, "
            "or a folder with train and test files"
        ) from error


def hold_out(
    examples: Sequence[Example], share: float = HELD_OUT, seed: int = 1
) -> tuple[list[Example], list[Example]]:
    """Split examples into training and held-out examples, stratified by label.

    Near-identical texts (see `text_key`) stay together. Each label with several texts is in both parts if
    holding out up to a quarter of the texts suffices for that. Numbers are stratified by range.

    Args:
        examples: all training examples.
        share: the share of texts to hold out, approximately.
        seed: of the random generator.

    Returns:
        The examples that stay, and those held out.

    Raises:
        ConfigError: there are too few different texts, or too few of each label.
    """
    labels = _labels_of_texts(examples, share)
    where = f" ({examples[0].place})" if examples else ""
    if len(labels) < 2:
        raise ConfigError(
            f"{len(labels)} distinct text to train on{where}: too few to hold some out as dev; give more (for ner, "
            "blank lines separate sentences), or a separate development file as `dev`"
        )
    out = _choose_texts(labels, share, np.random.default_rng(seed))
    if not out:
        raise ConfigError(f"too few texts of each label{where} to hold some out as dev; give more, or a `dev` file")
    return [e for e in examples if text_key(e) not in out], [e for e in examples if text_key(e) in out]


def _choose_texts(
    labels: Mapping[tuple[str, ...], Collection[object]], share: float, chance: np.random.Generator
) -> set[tuple[str, ...]]:
    """Choose the texts to hold out: one of each label, the share of each label (rounded down), then any."""
    texts = list(labels)
    order = [texts[n] for n in chance.permutation(len(texts))]
    count = Counter(label for of_text in labels.values() for label in of_text)
    several = sum(n > 1 for n in count.values())
    n_out = max(1, round(share * len(texts)))
    n_out = max(n_out, several) if several <= len(texts) // 4 else n_out
    out: set[tuple[str, ...]] = set()
    have: Counter[object] = Counter()
    of_label: dict[object, list[tuple[str, ...]]] = {label: [] for label in sorted(count, key=lambda n: count[n])}
    for text in order:
        for label in labels[text]:
            of_label[label].append(text)

    def draw(texts: Sequence[tuple[str, ...]], enough: Callable[[], bool]) -> None:
        for text in texts:
            if len(out) >= n_out or enough():
                break
            # Every label stays in training.
            if text not in out and all(count[label] - have[label] > 1 for label in labels[text]):
                out.add(text)
                have.update(labels[text])

    # One of each label first, unless these would be most of the held-out texts and distort the distribution.
    for least in (1, 0) if several <= n_out // 2 else (0, 1):
        # Rarest label first: texts with several labels also count for the other labels.
        for label, of_it in of_label.items():
            draw(of_it, lambda label=label, least=least: have[label] >= max(least, int(share * count[label])))  # type: ignore[misc]
    draw(order, lambda: False)
    return out


def _labels_of_texts(examples: Sequence[Example], share: float) -> dict[tuple[str, ...], set[object]]:
    """The labels of each text; for numbers, the quantile bin, of up to ten bins of equal size."""
    found: dict[tuple[str, ...], set[object]] = {}
    numbers = sorted(example.label for example in examples if isinstance(example.label, float))
    n_parts = min(10, max(1, round(share * len(numbers))))
    ends = [numbers[len(numbers) * part // n_parts] for part in range(1, n_parts)]
    for example in examples:
        of_text = found.setdefault(text_key(example), set())
        of_text.update((bisect(ends, example.label),) if isinstance(example.label, float) else _labels(example))
    return found


def _labels(example: Example) -> Collection[object]:
    """The labels of a text or of its words."""
    label = example.label
    if isinstance(label, tuple) and is_several(label):
        return [number for number, is_on in enumerate(label) if is_on] or [_NO_LABEL]
    return label if isinstance(label, tuple) else (label,)


def weak_splits(data: Data) -> list[str]:
    """Notes on splits that lack a label, whose targets are all equal, or that are small."""
    notes = []
    names = {split: _names_in(data, examples) for split, examples in data.splits.items()}
    for split, examples in data.splits.items():
        if lacks := [
            name for name in dict.fromkeys(n for found in names.values() for n in found) if name not in names[split]
        ]:
            listed = ", ".join(lacks[:8]) + (" and more" if len(lacks) > 8 else "")
            notes.append(
                f"{split} has no example of {len(lacks)} of the {len(lacks) + len(names[split])} labels: {listed}"
            )
        if data.task.kind == "regress" and len({example.label for example in examples}) == 1:
            notes.append(f"all targets of {split} are {examples[0].label:g}: correlations are undefined, reported as 0")
        if split != "train" and len(examples) < FEW:
            notes.append(f"{split} has {len(examples)} examples, fewer than {FEW}: {_WHY[split == 'dev']}")
    return notes


def _names_in(data: Data, examples: Sequence[Example]) -> dict[str, None]:
    """The labels of examples, or the types of their entities."""
    if data.task.kind == "regress":
        return {}
    numbers = {number for example in examples for number in _labels(example)} - {_NO_LABEL}
    named = [data.labels[number] for number in sorted(numbers)]  # type: ignore[type-var, call-overload]
    if data.scheme is not None:
        named = [name.partition("-")[2] for name in named if "-" in name]
    return dict.fromkeys(named)
