"""Examples of every kind of task, and what is wrong with them found before training."""

from __future__ import annotations

import json

import pytest

from attention_guidance.errors import ConfigError, CorpusError
from attention_guidance.finetuning.examples import read_examples
from attention_guidance.finetuning.tasks import TASKS, get_task


def files(tmp_path, suffix="tsv", **contents):
    for split, content in contents.items():
        (tmp_path / f"{split}.{suffix}").write_text(content)
    return {split: tmp_path / f"{split}.{suffix}" for split in contents}


def test_labels_are_those_of_training_in_order(tmp_path):
    data = read_examples(
        get_task("classify"),
        files(tmp_path, train="text\tlabel\na\t10\nb\t2\nc\t2\n", dev="text\tlabel\nd\t10\n"),
    )
    assert data.labels == ("2", "10")
    assert [example.label for example in data.splits["train"]] == [1, 0, 0]
    assert all("example" in note for note in data.notes)


def test_pairs_several_labels_and_numbers(tmp_path):
    pair = files(
        tmp_path,
        train="premise\thypothesis\tlabel\na\tb\tyes\nc\td\tno\n",
        dev="premise\thypothesis\tlabel\na\tb\tno\n",
    )
    data = read_examples(get_task("rte"), pair)
    assert data.splits["train"][0].texts == ("a", "b")
    several = files(tmp_path, train="text\tlabels\na\tx|y\nb\tz\nc\t\n", dev="text\tlabels\na\tz, y\n")
    data = read_examples(get_task("multilabel"), several)
    assert data.labels == ("x", "y", "z")
    assert [example.label for example in data.splits["train"]] == [(1, 1, 0), (0, 0, 1), (0, 0, 0)]
    assert data.splits["dev"][0].label == (0, 1, 1)
    numbers = files(tmp_path, train="text\tscore\na\t1.5\nb\t-2\n", dev="text\tscore\na\t0\n")
    data = read_examples(get_task("regress"), numbers)
    assert [example.label for example in data.splits["train"]] == [1.5, -2]
    assert data.labels == ()


def test_entities_have_both_labels_of_a_kind(tmp_path):
    data = read_examples(
        get_task("ner"), files(tmp_path, "txt", train="a B-PER\nb O\n", dev="a B-PER\nb I-PER\n", test="c B-PER\n")
    )
    assert data.labels == ("O", "B-PER", "I-PER")
    assert data.splits["dev"][0].label == (1, 2)


def test_overlap_is_counted(tmp_path):
    table = "text\tlabel\na\tx\nb\ty\n"
    data = read_examples(get_task("classify"), files(tmp_path, train=table, dev=table, test="text\tlabel\na\tx\n"))
    assert data.notes[-3:] == (
        "2 of 2 texts of dev are in train too; their scores flatter",
        "1 of 1 texts of test are in train too; their scores flatter",
        "1 of 1 texts of test are in dev too, on which learning rate and epoch are chosen",
    )


def test_what_is_chosen_on_is_not_scored_on(tmp_path):
    given = files(tmp_path, train="text\tlabel\na\tx\nb\ty\n", dev="text\tlabel\na\tx\n")
    with pytest.raises(ConfigError, match=r"--dev and --test are one file, .*dev\.tsv"):
        read_examples(get_task("classify"), given | {"test": tmp_path / "." / "dev.tsv"})


def test_words_without_entities_are_told(tmp_path):
    tagged = "a LOC\nb O\nc PER\n"
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=tagged, dev=tagged))
    assert data.labels == ("O", "LOC", "PER")
    assert "the labels of train.txt have no B- and I-, so they are scored word by word (macro F1)" in data.notes[0]
    parts = "a NOUN\nb VERB\n"
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=parts, dev=parts))
    assert "word by word" not in str(data.notes)


def test_a_few_malformed_labels_are_not_another_scheme(tmp_path):
    """Alone, this dev could be IOB1; training begins entities with B-."""
    train, dev = "Ann B-PER\nhere O\nNew B-LOC\nYork I-LOC\n", "saw O\nJohn I-PER\nNew I-LOC\nYork I-LOC\n"
    both = files(tmp_path, "txt", train=train, dev=dev)
    with pytest.raises(CorpusError, match=r"dev\.txt:2: I-PER continues nothing"):
        read_examples(get_task("ner"), both)
    data = read_examples(get_task("ner"), both, repair=True)
    assert "2 entities of dev.txt began without B- and were repaired" in data.notes
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=dev, dev=dev))
    assert data.scheme == "IOB1"
    assert "train.txt is read as IOB1" in data.notes[0]
    # Training decides, whatever the others begin with.
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=dev, dev=train))
    assert data.scheme == "IOB1"


def test_labels_are_told_apart_by_their_words_alone(tmp_path):
    rows = [["a\tb", "c"], ["a  b", ""], "a b|c|", " a\tb ,c"]
    lines = "".join(json.dumps({"text": str(n), "labels": labels}) + "\n" for n, labels in enumerate(rows))
    data = read_examples(get_task("multilabel"), files(tmp_path, "jsonl", train=lines, dev=lines))
    assert set(data.labels) == {"a b", "c"}
    found = [{data.labels[n] for n, on in enumerate(e.label) if on} for e in data.splits["train"]]
    assert found == [{"a b", "c"}, {"a b"}, {"a b", "c"}, {"a b", "c"}]


def test_one_column_is_not_both():
    with pytest.raises(ConfigError, match="--columns 1 1: words and labels cannot be in one column"):
        read_examples(get_task("ner"), {}, columns=["1", "1"])


CLASSES, SCORES, PAIRS = "text\tlabel\n", "text\tscore\n", "sentence1\tsentence2\tlabel\na\tb"


@pytest.mark.parametrize(
    ("task", "suffix", "train", "dev", "message"),
    [
        ("classify", "tsv", f"{CLASSES}a\tx\nb\ty\n", f"{CLASSES}a\tx\nb\tz\n", r"dev\.tsv:3: label 'z' is not in"),
        ("classify", "tsv", f"{CLASSES}a\tx\n", f"{CLASSES}a\tx\n", r"train\.tsv: a single label \(x\)"),
        ("mrpc", "tsv", f"{PAIRS}\tx\na\tb\ty\na\tb\tz\n", f"{PAIRS}\tx\n", r"3 labels \(x, y, z\); mrpc has two"),
        ("regress", "tsv", f"{SCORES}a\tlots\n", f"{SCORES}a\t1\n", r"train\.tsv:2: score 'lots' is not a number"),
        ("regress", "tsv", f"{SCORES}a\tnan\n", f"{SCORES}a\t1\n", r"train\.tsv:2: no label in column 'score', nor"),
        ("ner", "txt", "a O\nb O\n", "b B-PER\n", r"train\.txt: every word has the label O, so that there is nothing"),
        ("ner", "txt", "a B-PER\n", "b O\nc O\n", r"dev\.txt: every word has the label O, so that there is nothing"),
        ("ner", "txt", "a B-PER\n", "b O\nc B-LOC\n", r"dev\.txt:2: label 'B-LOC' is not in the training file"),
        (
            "classify",
            "jsonl",
            '{"text": ["a"], "label": 1}\n',
            '{"text": "a", "label": 1}\n',
            r"train\.jsonl:1: a list or an object in column 'text'",
        ),
        (
            "regress",
            "jsonl",
            '{"text": "a", "label": {}}\n',
            '{"text": "a", "label": 1}\n',
            r"train\.jsonl:1: a list or an object in column",
        ),
        ("multilabel", "jsonl", '{"text": "a", "labels": ["x", "y"]}\n', '{"text": "a"}\n', r"dev\.jsonl: one column"),
    ],
)
def test_errors_name_the_line(tmp_path, task, suffix, train, dev, message):
    with pytest.raises(CorpusError, match=message):
        read_examples(get_task(task), files(tmp_path, suffix, train=train, dev=dev))


def test_unknown_tasks_are_refused():
    with pytest.raises(ConfigError, match="--task 'glue': expected one of classify, pair"):
        get_task("glue")
    assert all(get_task(name).name == name for name in TASKS)
