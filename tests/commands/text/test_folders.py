"""Which files of a folder are trained on."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from attention_guidance.commands.text import folders
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.errors import CorpusError


@pytest.fixture(autouse=True)
def warn_anew():
    folders.warn_once.cache_clear()


def read(folder: Path, *names: str) -> list[str]:
    """The files, of such names, that are read."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text({".csv": f"id,text\n1,{name}\n", ".jsonl": f'{{"text": "{name}"}}'}.get(path.suffix, name))
    return [document.text for document in read_documents([folder])]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.txt", "dev.txt", "test.txt"], ["train.txt"]),
        (["train.csv", "valid.csv", "README.md", "LICENSE"], ["train.csv"]),
        (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/test-00000-of-00001.jsonl"],
         ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]),
        (["sw.train.txt", "sw.eval.txt", "ha_training_2.txt", "ha_dev.txt"], ["ha_training_2.txt", "sw.train.txt"]),
        (["train/a.txt", "train/test.txt", "test/a.txt"], ["train/a.txt", "train/test.txt"]),
        (["en/train/a.txt", "en/validation/a.txt", "sw/train/a.txt"], ["en/train/a.txt", "sw/train/a.txt"]),
        (["Train.txt", "Test.txt"], ["Train.txt"]),
        (["train.txt", "test.txt", "labels.txt"], ["train.txt"]),
        (["news.txt", "test.txt"], ["news.txt"]),
        # No data set: names that only sound like one.
        (["train-stations.txt", "news.txt"], ["news.txt", "train-stations.txt"]),
        (["latest.txt", "testament.txt", "devotion.txt"], ["devotion.txt", "latest.txt", "testament.txt"]),
        (["dev.txt"], ["dev.txt"]),
        (["a.txt", "wiki_00", "b/c.md"], ["a.txt", "b/c.md", "wiki_00"]),
        (["a.txt", "README", "readme.txt", "README.de.md", "LICENCE.txt", "LICENSE-MIT", "NOTICE", "metadata.jsonl",
          "metadata.csv", "CITATION.md", "__pycache__/a.txt", ".git/config.txt", ".hidden.txt"], ["a.txt"]),
        (["licensed.txt", "noticed.txt", "readmes.txt"], ["licensed.txt", "noticed.txt", "readmes.txt"]),
    ],
)  # fmt: skip
def test_the_files_to_train_on(tmp_path, caplog, names, expected):
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, *names) == expected
    assert ("left out" in caplog.text) is (len(names) > len(expected))


def test_what_is_left_out_is_said_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            read(tmp_path, "train.txt", "test.txt", "README.md", ".hidden", "page.html")
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: skipped files ending in .html; give them by name to read them",
        f"{tmp_path}: left out .hidden, README.md, test.txt (not training text); give them by name to read them",
    ]
    names = [document.text for document in read_documents([tmp_path / "test.txt", tmp_path / "README.md"])]
    assert names == ["test.txt", "README.md"]


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe.txt")
    assert read(tmp_path, "a.txt") == ["a.txt"]
    assert "left out pipe.txt" in caplog.text


def test_the_name_of_the_folder_itself_says_nothing(tmp_path):
    assert read(tmp_path / "test" / "dev-set", "a.txt", "train.txt") == ["a.txt", "train.txt"]


def test_nothing_but_files_about_data(tmp_path):
    with pytest.raises(CorpusError, match=r"only files about data in this folder; expected files ending in \.txt"):
        read(tmp_path, "README.md", "LICENSE")
