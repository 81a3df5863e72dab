"""How labels are read: 0 and 1 per class, equal names, missing labels, and which of two labels is positive."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.errors import ConfigError, CorpusError


def jsonl(path, cells, column="labels"):
    rows = [{"text": f"{path.stem} {n}"} | (cell if isinstance(cell, dict) else {column: cell})
            for n, cell in enumerate(cells)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(path, *rows):
    path.write_text("\n".join([*rows, ""]))
    return path


def parquet(path, column, values, feature=None):
    texts = [f"{path.stem} {n}" for n in range(len(values))]
    written = pa.table({"text": texts, column: values})
    if feature is not None:
        kept = {"huggingface": json.dumps({"info": {"features": {column: feature}}})}
        written = written.replace_schema_metadata(kept)
    pq.write_table(written, path)
    return path


def labels_on(data, split):
    return [[data.labels[n] for n, on in enumerate(example.label) if on] for example in data.splits[split]]


def classes(data, split):
    return [data.labels[example.label] for example in data.splits[split]]


def class_label(*names):
    return {"names": list(names), "_type": "ClassLabel"}


def test_lists_of_0_and_1_are_classes(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    dev = jsonl(tmp_path / "dev.jsonl", [[0, 1, 1]])
    data = read_examples(get_task("multilabel"), {"train": train, "dev": dev})
    assert data.labels == ("0", "1", "2")
    assert labels_on(data, "train") == [["0", "2"], [], ["1"]]
    assert labels_on(data, "dev") == [["1", "2"]]
    assert "column 'labels' is read as 0 or 1 for each of 3 classes, numbered from 0" in data.notes


def test_two_classes_of_0_and_1_are_no_names(tmp_path):
    """Read as names, both labels would be in every row."""
    train = jsonl(tmp_path / "train.jsonl", [[1, 0], [0, 1], [0, 1]])
    data = read_examples(get_task("multilabel"), {"train": train, "dev": train})
    assert labels_on(data, "train") == [["0"], ["1"], ["1"]]


def test_lists_of_numbers_of_labels_are_names(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", [[1], [0, 1], [], [0]])
    data = read_examples(get_task("multilabel"), {"train": train, "dev": train})
    assert labels_on(data, "train") == [["1"], ["0", "1"], [], ["0"]]


def test_parquet_of_0_and_1_and_of_named_numbers(tmp_path):
    hot = parquet(tmp_path / "hot.parquet", "labels", [[1, 0, 0], [0, 1, 1]])
    assert labels_on(read_examples(get_task("multilabel"), {"train": hot, "dev": hot}), "train") == [["0"], ["1", "2"]]
    for feature in ({"feature": class_label("a", "b"), "_type": "List"}, [class_label("a", "b")]):
        named = parquet(tmp_path / "named.parquet", "labels", [[1], [0, 1], []], feature)
        data = read_examples(get_task("multilabel"), {"train": named, "dev": named})
        assert labels_on(data, "train") == [["b"], ["a", "b"], []]


def test_a_column_a_label(tmp_path):
    """As in the toxic comments data, where unlabelled rows are -1."""
    header = "id,comment,toxic,obscene,threat"
    train = table(tmp_path / "train.csv", header.replace("comment", "text"), "a1,x,1,0,0", "b2,y,0,0,0", "c3,z,1,1,0")
    dev = table(tmp_path / "dev.csv", header.replace("comment", "text"), "d4,v,0,1,0", "e5,w,-1,-1,-1")
    data = read_examples(get_task("multilabel"), {"train": train, "dev": dev})
    assert labels_on(data, "train") == [["toxic"], [], ["obscene", "toxic"]]
    assert labels_on(data, "dev") == [["obscene"]]
    assert data.notes[0] == "read as one column of 0 and 1 per label: toxic, obscene, threat"
    assert "no row of training has the label threat; it is left out" in data.notes
    assert "1 of 2 rows of dev.csv have no gold label: left out" in data.notes
    # Columns given by name, and a single one.
    given = table(tmp_path / "given.csv", header, "a1,x,1,0,0", "b2,y,0,1,0")
    data = read_examples(
        get_task("multilabel"), {"train": given, "dev": given}, columns=["comment", "toxic", "obscene"]
    )
    assert labels_on(data, "train") == [["toxic"], ["obscene"]]
    data = read_examples(get_task("multilabel"), {"train": given, "dev": given}, columns=["comment", "toxic"])
    assert labels_on(data, "train") == [["toxic"], []]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["['a', 'b']", "[]", "['b']"], [["a", "b"], [], ["b"]]),
        (["['a' 'b']", "['b']", "[]"], [["a", "b"], ["b"], []]),
        (["a;b", "b", ""], [["a", "b"], ["b"], []]),
        (["a | b", "b|", ""], [["a", "b"], ["b"], []]),
        (["('a',)", "{'b'}", "()"], [["a"], ["b"], []]),
        (["[1 0 1]", "[0 0 0]", "[0 1 0]"], [["0", "2"], [], ["1"]]),
        (["[1. 0. 1.]", "[0. 0. 0.]", "[0. 1. 0.]"], [["0", "2"], [], ["1"]]),
        ([["a"], [], ["a"]], [["a"], [], ["a"]]),
        ([{"labels": {"a": 1, "b": 0}}, {"labels": {"a": True, "b": True}}], [["a"], ["a", "b"]]),
        ([["a", 1], [1.0], "1"], [["1", "a"], ["1"], ["1"]]),
        ([["x"], None, ["y"], "-", {}], [["x"], ["y"]]),
    ],
)
def test_labels_however_they_are_written(tmp_path, cells, expected):
    train = jsonl(tmp_path / "train.jsonl", cells)
    data = read_examples(get_task("multilabel"), {"train": train, "dev": train})
    assert labels_on(data, "train") == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[1], [0], [1]], r"train\.jsonl:1: a single 0 or 1 in every row .* task=classify"),
        (["1", "0"], r"train\.jsonl:1: a single 0 or 1 in every row"),
        (["101", "010", "101"], r"train\.jsonl:3: '101' may be the name of a label, or 0 or 1 for each of 3 classes"),
        (["01", "10"], r"0 or 1 for each of 2 classes; write 0 1 for the latter"),
        ([101, 10, 0], r"'101' may be"),  # as numbers, without leading zeros
        ([["11"], ["00"], []], r"'11' may be"),
        ([[1, 0, 1], [1, 0]], r"train\.jsonl:2: labels 1, 0; other rows have 3 numbers, each 0 or 1"),
        ([["a"], ["b"], [2, 0, 0]], r"train\.jsonl:3: numbers repeat in 2, 0, 0"),
        ([[0.3, 0.7], [1, 0]], r"train\.jsonl:1: 0\.3 in a list of labels"),
        ([["a", None], ["b"]], r"train\.jsonl:1: None in a list of labels"),
        (["Paris, France; London", "Rome"], r"train\.jsonl:1: labels .* contain ; and ,; it is unclear"),
        (["[a, b]", "[c]"], r"train\.jsonl:1: labels '\[a, b\]' are not a valid list"),
        ([[], []], r"train\.jsonl: no row has a label"),
        ([["a"], ["a"]], r"train\.jsonl: a single label \(a\)"),
        ([{"labels": {"a": 2}}], r"train\.jsonl:1: 2 in column 'a'; expected 0 or 1"),
    ],
)
def test_what_several_labels_cannot_be(tmp_path, cells, message):
    train = jsonl(tmp_path / "train.jsonl", cells)
    with pytest.raises(CorpusError, match=message):
        read_examples(get_task("multilabel"), {"train": train, "dev": train})


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (["True", "False"], "True"),
        (["match", "no match"], "match"),
        (["0", "1"], "1"),
        (["2", "10"], "10"),
        (["-1", "1"], "1"),
        (["yes", "no"], "yes"),
        (["n", "y"], "y"),
        (["negative", "positive"], "positive"),
        (["acceptable", "unacceptable"], "acceptable"),
        (["irrelevant", "relevant"], "relevant"),
        (["toxic", "non-toxic"], "toxic"),
        (["not_equivalent", "equivalent"], "equivalent"),
        (["entailment", "not_entailment"], "entailment"),
        (["spam", "ham"], "spam"),
        (["hate", "none"], "hate"),
        # Names that do not decide: the last.
        (["cat", "dog"], "dog"),
        (["normal", "abnormally long"], "normal"),
    ],
)
def test_the_positive_label(tmp_path, labels, positive):
    train = jsonl(tmp_path / "train.jsonl", labels, "label")
    assert read_examples(get_task("classify"), {"train": train, "dev": train}).positive == positive
    (other,) = {*labels} - {positive}
    data = read_examples(get_task("classify"), {"train": train, "dev": train}, positive=other)
    assert data.positive == other
    assert classes(data, "train") == labels


def test_a_positive_label_that_cannot_be(tmp_path):
    pairs = table(tmp_path / "p.csv", "question1,question2,is_duplicate", "a,b,left", "c,d,right side", "e,f,left")
    both = {"train": pairs, "dev": pairs}
    with pytest.raises(
        ConfigError, match=r"p\.csv: qqp is scored by the F1 .* give `positive_label` right side, or le"
    ):
        read_examples(get_task("qqp"), both)
    assert read_examples(get_task("qqp"), both, positive="left").labels == ("right side", "left")
    with pytest.raises(ConfigError, match=r"positive_label=up: p\.csv has the labels left, right side"):
        read_examples(get_task("qqp"), both, positive="up")
    three = jsonl(tmp_path / "three.jsonl", ["a", "b", "c"], "label")
    with pytest.raises(ConfigError, match="positive_label=a: only for tasks with two labels"):
        read_examples(get_task("classify"), {"train": three, "dev": three}, positive="a")


def test_rows_without_a_gold_label_are_left_out_and_counted(tmp_path):
    labels = ["neutral", "-", "entailment", None, "contradiction", "", float("nan")]
    rows = [{"sentence1": "a", "sentence2": f"{n}", "gold_label": label} for n, label in enumerate(labels)]
    rows.append({"sentence1": "a", "sentence2": "without"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read_examples(get_task("mnli"), dict.fromkeys(("train", "dev"), tmp_path / "train.jsonl"))
    assert data.labels == ("contradiction", "entailment", "neutral")
    assert classes(data, "train") == ["neutral", "entailment", "contradiction"]
    assert data.notes.count("5 of 8 rows of train.jsonl have no gold label: left out") == 2
    # The first row may lack a label.
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    data = read_examples(get_task("mnli"), {split: tmp_path / f"{split}.jsonl" for split in ("train", "dev")})
    assert len(data.splits["dev"]) == 3


@pytest.mark.parametrize(
    ("task", "labels", "expected"),
    [
        ("classify", ["0", "1", "2", "-1"], ("0", "1", "2")),
        ("cola", ["0", "1", "-1"], ("0", "1")),
        # It may be a label.
        ("classify", ["0", "1", "-1"], ("-1", "0", "1")),
        ("classify", ["-1", "1"], ("-1", "1")),
        ("classify", ["-", "+"], ("-", "+")),
        ("classify", ["+", "0", "-"], ("0", "+", "-")),
        ("classify", ["a", "b", "-"], ("a", "b")),
    ],
)
def test_minus_one_and_the_dash(tmp_path, task, labels, expected):
    train = jsonl(tmp_path / "train.jsonl", labels, "label")
    assert read_examples(get_task(task), {"train": train, "dev": train}).labels == expected


def test_a_file_without_any_gold_label(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", ["a", "b"], "label")
    for cells in (["-", None], ["", ""]):
        dev = jsonl(tmp_path / "dev.jsonl", cells, "label")
        with pytest.raises(CorpusError, match=r"dev\.jsonl:1: no label in column 'label', nor in any other row"):
            read_examples(get_task("classify"), {"train": train, "dev": dev})


def test_doubtful_labels_are_noted(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", ["None", "Good", "good"], "label")
    notes = read_examples(get_task("classify"), {"train": train, "dev": train}).notes
    assert "'None' is read as an ordinary label; leave the cell empty if there is no label" in notes
    assert "the labels Good and good differ only in case and are read as different" in notes


@pytest.mark.parametrize(
    ("train", "dev"),
    [
        (["0", "1"], ["0.0", "1.0"]),
        ([1.0, 0.0], ["1", "0"]),
        ([0, 1], ["0", "1"]),
        ([True, False], ["true", "FALSE"]),
        (["cafe\u0301", "the\u00a0e"], ["caf\u00e9", "the e"]),
    ],
)
def test_labels_that_are_the_same(tmp_path, train, dev):
    files = {
        "train": jsonl(tmp_path / "train.jsonl", train, "label"),
        "dev": jsonl(tmp_path / "dev.jsonl", dev, "label"),
    }
    data = read_examples(get_task("classify"), files)
    assert len(data.labels) == 2
    assert classes(data, "train") == classes(data, "dev")


def test_codes_that_are_no_numbers_stay_apart(tmp_path):
    train = jsonl(tmp_path / "train.jsonl", ["01", "1", "1.10", "1.1"], "label")
    assert set(read_examples(get_task("classify"), {"train": train, "dev": train}).labels) == {"01", "1", "1.10", "1.1"}


def test_names_that_parquet_keeps(tmp_path):
    feature = class_label("entailment", "neutral", "contradiction")
    named = parquet(tmp_path / "named.parquet", "label", [0, 2, 1, -1, 0], feature)
    numbers = jsonl(tmp_path / "numbers.jsonl", [2, 1.0, "0"], "label")
    names = jsonl(tmp_path / "names.jsonl", ["contradiction", "neutral"], "label")
    for train, dev in ((named, numbers), (numbers, named), (named, names)):
        data = read_examples(get_task("classify"), {"train": train, "dev": dev})
        assert data.labels == ("contradiction", "entailment", "neutral")
    data = read_examples(get_task("classify"), {"train": named, "dev": numbers})
    assert classes(data, "train") == ["entailment", "contradiction", "neutral", "entailment"]
    assert classes(data, "dev") == ["contradiction", "neutral", "entailment"]
    assert "1 of 5 rows of named.parquet have no gold label: left out" in data.notes


@pytest.mark.parametrize("cells", [["a b", "b", "a"], ["a/b", "b", "a"], ["a&b", ""], [["a", ""], ["b"]]])
def test_a_file_without_separated_labels_is_noted(tmp_path, cells):
    files = {"train": jsonl(tmp_path / "train.jsonl", cells), "dev": jsonl(tmp_path / "dev.jsonl", cells)}
    said = "no row of training has several labels; separate labels in a cell with | ; or ,"
    assert said in read_examples(get_task("multilabel"), files).notes
    files["train"] = jsonl(tmp_path / "train.jsonl", [*cells, "c|d"])
    assert said not in read_examples(get_task("multilabel"), files).notes


def test_labels_of_0_and_1_beside_others_are_names(tmp_path):
    files = {"train": jsonl(tmp_path / "train.jsonl", ["10", "11", "2"]), "dev": jsonl(tmp_path / "dev.jsonl", ["11"])}
    assert read_examples(get_task("multilabel"), files).labels == ("2", "10", "11")
    files["train"] = jsonl(tmp_path / "train.jsonl", ["10|11", "10", "11"])
    assert read_examples(get_task("multilabel"), files).labels == ("10", "11")


@pytest.mark.parametrize(
    ("task", "header", "rows", "read", "not_read"),
    [
        ("regress", "text\tlabel\tscore", ["a\t0\t0.3", "b\t1\t0.1"], "text, label", "score"),
        ("regress", "id\tText\tvalue\tTarget", ["1\ta\t0\t0.3", "2\tb\t1\t0.1"], "Text, Target", "value"),
        ("classify", "text\tcategory\tlabel", ["a\tx\t0", "b\ty\t1"], "text, label", "category"),
        ("classify", "sentence\ttext\tlabel", ["a\tx\t0", "b\ty\t1"], "text, label", "sentence"),
        ("pair", "premise\tsentence1\tsentence2\tlabel", ["a\tb\tc\t0", "d\te\tf\t1"],
         "sentence1, sentence2, label", "premise"),
        ("multilabel", "text\tlabel\tlabels", ["a\tx\tx|y", "b\ty\ty"], "text, labels", "label"),
    ],
)  # fmt: skip
def test_other_columns_that_could_be_meant_are_noted(tmp_path, task, header, rows, read, not_read):
    file = table(tmp_path / "train.tsv", header, *rows)
    files = {"train": file, "dev": file}
    said = f"reading the columns {read} and ignoring {not_read}; if that is wrong, name the columns"
    assert said in read_examples(get_task(task), files).notes
    assert said not in read_examples(get_task(task), files, columns=read.split(", ")).notes
    others = ["extra" if name == not_read else name for name in header.split("\t")]
    table(tmp_path / "train.tsv", "\t".join(others), *rows)
    assert "reading the columns" not in str(read_examples(get_task(task), files).notes)
