"""A small task, and helpers that read the results of a fine-tuning."""

from __future__ import annotations

import json
import random
import shutil

import pytest


def read(folder):
    return json.loads((folder / "finetune.json").read_text(encoding="utf-8"))


def words(chance, n=4):
    return ["".join(chance.choices("bcdfg", k=2)) for _ in range(n)]


@pytest.fixture
def many_models(tmp_path, whole_run):
    """A copy of the run's model under another name."""
    shutil.copytree(whole_run / "model", tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def table(tmp_path):
    """Texts whose first word determines their label."""

    def write(labels, header="text\tlabel", pair=False, n=256):
        chance = random.Random(0)
        paths = {}
        for split in ("train", "dev", "test"):
            lines = [header]
            for _ in range(n if split == "train" else 24):
                number = chance.randrange(len(labels))
                text = " ".join(["aeiou"[number] * 2, *words(chance)])
                lines.append("\t".join([text, *(["other " + words(chance)[0]] if pair else []), str(labels[number])]))
            paths[split] = tmp_path / f"{split}.tsv"
            paths[split].write_text("\n".join([*lines, ""]))
        return [argument for split, path in paths.items() for argument in (f"--{split}", path)]

    return write
