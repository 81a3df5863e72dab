"""Data sets of the hub, from folders that look like one."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("datasets")

from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.text.hub import HubDocuments
from attention_guidance.errors import ConfigError, CorpusError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two files and two splits."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for part in range(2):
        rows = [{"id": n, "text": f" Line {part * 40 + n} of the text. "} for n in range(40)]
        (data / f"train-{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (data / "test.jsonl").write_text(json.dumps({"id": 1, "text": "A test."}))
    return data


def test_documents_are_those_of_the_files(folder):
    documents = HubDocuments(str(folder), None, "train", "text")
    of_files = read_documents([folder / "train-0.jsonl", folder / "train-1.jsonl"])
    assert [d.text for d in documents] == [d.text for d in of_files] == [d.text for d in documents]
    assert [d.text for d in HubDocuments(str(folder), None, "test", "text")] == ["A test."]


def test_long_documents_are_cut_as_those_of_files(folder):
    rows = [{"id": 1, "text": "long " * 200_000}, {"id": 2, "text": "short"}]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents = list(HubDocuments(str(folder), None, "test", "text"))
    assert [d.source.rpartition(":")[2] for d in documents] == ["1", "1", "2"]
    assert [d.text for d in documents] == [d.text for d in read_documents([folder / "test.jsonl"])]


def test_a_run_takes_them(folder):
    settings = {"block_size": 16, "vocab_size": 270, "batch_size": 2, "validation_share": 0.2}
    data = prepare_data(make_config({"dataset": str(folder), **settings}), lambda said: None)
    files = [str(folder / f"train-{part}.jsonl") for part in range(2)]
    assert data.fingerprint == prepare_data(make_config({"corpus": files, **settings}), lambda said: None).fingerprint


@pytest.mark.parametrize(
    ("name", "split", "field", "error", "said"),
    [
        ("data", "dev", "text", ConfigError, r"cannot be loaded \(.*dev.*give their folder as the corpus"),
        ("data", "train", "body", CorpusError, "no column 'body' .*there are 'id', 'text'"),
        ("data", "train", "id", CorpusError, "data:1: column 'id' holds int, expected a string"),
        ("none-such", "train", "text", ConfigError, r"none-such.* cannot be loaded \("),
    ],
)
def test_what_is_not_there(folder, name, split, field, error, said):
    with pytest.raises(error, match=said):
        [*HubDocuments(str(folder.parent / name), None, split, field)]


def test_a_hub_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"somebody/something.*cannot be loaded.*if the hub cannot be reached"):
        HubDocuments("somebody/something", None, "train", "text")


def test_files_and_a_data_set_do_not_go_together():
    with pytest.raises(ConfigError, match=r"does not go with corpus='.*a\.txt'"):
        make_config({"dataset": "x/y", "corpus": ["a.txt"]})
    with pytest.raises(ConfigError, match="does not go with objective='mim'"):
        make_config({"dataset": "x/y", "objective": "mim"})
