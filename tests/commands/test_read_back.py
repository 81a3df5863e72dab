"""Files that a command reads back are data from outside: damaged ones are errors of one line, or made anew."""

from __future__ import annotations

import ast
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

import attention_guidance
from attention_guidance.assignment import assign_heads
from attention_guidance.commands.annotations.class_labels import class_names
from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.reflexives import read_reflexives
from attention_guidance.commands.finetuning.candidates import _seeds_of
from attention_guidance.commands.finetuning.examples.labels import in_order, name_of
from attention_guidance.commands.finetuning.examples.multilabel import _literal
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.kept import facts_of, finished_request
from attention_guidance.commands.finetuning.prediction.inputs import read_items
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.snapshots import AttentionSnapshots
from attention_guidance.commands.pretraining.preparation.text import _loaded
from attention_guidance.commands.pretraining.saving.checkpoints import damage, write_whole
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.architectures import stated_sizes
from attention_guidance.commands.pretraining.settings.config import read_yaml
from attention_guidance.commands.reading.arrays import read_array
from attention_guidance.commands.reading.yaml_text import parse_yaml
from attention_guidance.errors import ConfigError, CorpusError, GuidanceError, PatternError, RunError
from attention_guidance.patterns import get_pattern

SOURCES = Path(attention_guidance.__file__).parent
DEEP = "[" * 100_000
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))  # noqa: B905
NOT_OF_THE_KIND = (DEEP, "[]", "null", '{"x": 1}', "9" * 5000)


@pytest.mark.parametrize("content", NOT_OF_THE_KIND)
def test_what_a_resume_reads(tmp_path, content):
    """Errors that name the file."""
    run = RunFolder(tmp_path)
    write_whole(run.model, lambda folder: (folder / "weights").touch())
    clock = Clock(60)
    read = {"data.json": lambda: run.fingerprint, "clock.json": lambda: clock.load(tmp_path)}
    read |= {"step-0.json": lambda: AttentionSnapshots.load(tmp_path)}
    if content != NOT_OF_THE_KIND[3]:  # any object may be results
        read["results.json"] = lambda: run.finished
    for name, reads in read.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(RunError, match=name):
            reads()


@pytest.mark.parametrize("content", NOT_OF_THE_KIND)
def test_what_is_made_anew_if_damaged(tmp_path, content):
    for name in ("fit.json", "finetune.json", "compare.json", "seal.json", "blocks.json"):
        (tmp_path / name).write_text(content)
    assert facts_of(tmp_path) is None
    assert (finished_request(tmp_path) or {}).get("request") is None
    assert _seeds_of(tmp_path) == []
    assert damage(tmp_path) is not None
    with pytest.raises(ValueError, match=r"blocks\.json"):
        _loaded(tmp_path, 4)


@pytest.mark.parametrize("name", ["\0", "", "../x", "x" * 5000])
def test_a_seal_of_files_that_cannot_exist(tmp_path, name):
    (tmp_path / "seal.json").write_text(json.dumps({"sha256": {name: "0"}}))
    assert damage(tmp_path) is not None


@pytest.mark.parametrize("name", ["object", "uint16; x", "O", ""])
def test_packed_blocks_of_another_type(tmp_path, name):
    (tmp_path / "blocks.json").write_text(json.dumps({"dtype": name, "truncated": 0}))
    (tmp_path / "ids").write_bytes(b"\0" * 16)
    np.save(tmp_path / "lengths.npy", np.ones(2, np.int32))
    with pytest.raises(ValueError, match=r"blocks\.json.*dtype"):
        _loaded(tmp_path, 4)


def test_arrays_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1]))
    np.save(tmp_path / "c.npy", np.ones((2, 2)))
    np.save(tmp_path / "d.npy", np.array(["x"]))
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY\x01\x00\x06\x00{'a':(")
    for name in "abcdef":
        with pytest.raises(RunError, match=rf"{name}\.npy: not an array of numbers"):
            read_array(tmp_path / f"{name}.npy", np.floating)


@pytest.mark.parametrize(("kind", "text"), [("tokens", "a B"), ("classify", "h\nx"), ("regress", "h\na\tb\tc")])
def test_damaged_predictions(tmp_path, kind, text):
    file = tmp_path / "predictions" / f"test-seed-1.{'txt' if kind == 'tokens' else 'tsv'}"
    file.parent.mkdir()
    for content in (text.encode(), b"\xff\t\xff\t\xff\n\xff\t\xff\t\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"test-seed-1\.t.. ?.*damaged"):
            read_predictions(tmp_path, "test", kind, [1])


@pytest.mark.parametrize("content", ["[]", DEEP, '{"model_type": 3}', '{"model_type": "bert", "hidden_size": "x"}'])
def test_a_configuration_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        stated_sizes(str(tmp_path / "config.json"), None)


@pytest.mark.parametrize(
    "stated", ["{", "[]", '{"info": 1}', '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}']
)
def test_metadata_of_parquet(tmp_path, stated):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"label": [0]}).replace_schema_metadata({"huggingface": stated})
    pq.write_table(table, tmp_path / "a.parquet")
    if stated == "{":
        with pytest.raises(CorpusError, match=r"a\.parquet: not JSON"):
            class_names(tmp_path / "a.parquet")
    else:
        assert class_names(tmp_path / "a.parquet") == {}


def test_labels_nested_too_deeply_are_a_text():
    assert _literal(DEEP) is None
    assert _literal("(" * 100_000) is None


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "x: [&a 1, *a]"])
def test_aliases_are_refused_at_once(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"run\.yaml is not YAML.*the alias \*\w+ is not read; write its value out"):
        read_yaml(tmp_path / "run.yaml")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "tag", ["int", "float", "bool", "timestamp", "binary", "python/name:os.system", "python/object"]
)
def test_values_that_do_not_suit_their_tag(tag):
    for value in ("''", "x", "{a: b}", "[1]"):
        try:
            parse_yaml(f"seed: !!{tag} {value}")
        except ValueError:
            continue
        assert (tag, value) in {("binary", "''"), ("binary", "x")}


@pytest.mark.parametrize("heads", ["next@0-999999", "0-999999: next:1", ",".join(["next@0-9999"] + ["0-9999"] * 5000)])
def test_ranges_beyond_any_model(heads):
    began = time.monotonic()
    with pytest.raises(PatternError, match=r"more than 100,000 numbers"):
        assign_heads(heads, 4, 4, get_pattern)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("label", ["9" * 5000, "-" + "9" * 5000, "9" * 5000 + ".0"])
def test_labels_of_thousands_of_digits_are_names(label):
    assert name_of(label) == label
    assert in_order([label, "10", "9"]) == ["9", "10", label]


@pytest.mark.parametrize("column", ["9" * 5000, "0", "-1", "²"])
def test_columns_that_are_no_numbers(tmp_path, column):
    (tmp_path / "a.conll").write_text("Ann B-X\nran O\n")
    with pytest.raises(CorpusError, match="expected the number of the column of words"):
        list(read_items(get_task("ner"), str(tmp_path / "a.conll"), columns=[column]))
    with pytest.raises(ConfigError, match="needs the column numbers of word and label"):
        read_examples(get_task("ner"), {"train": tmp_path / "a.conll"}, columns=[column, "2"])


def test_messages_do_not_quote_whole_files(tmp_path):
    long = "x" * 70_000
    (tmp_path / "r.txt").write_text(f"a b\t{long}\t0\n")
    (tmp_path / "c.conll").write_text(f"#begin {long}\n")
    for read, name in ((read_reflexives, "r.txt"), (read_conll2012, "c.conll")):
        with pytest.raises(CorpusError, match=rf"^\S+{name}:1: .*xxx \.\.\. .*(indices 0 to 1|part 000)$") as caught:
            list(read(tmp_path / name))
        assert len(str(caught.value)) < 1500
    assert str(GuidanceError("y" * 1500)) == "y" * 1500


def test_all_json_is_read_in_one_place():
    """Where nesting, huge integers and types are checked; the exceptions are not files from outside."""
    found = {
        path.name
        for path in SOURCES.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.load", "json.loads", "yaml.load", "np.load")
    }
    assert found == {"json_files.py", "yaml_text.py", "arrays.py"} | {"multilabel.py", "saved.py", "peak_memory.py"}
