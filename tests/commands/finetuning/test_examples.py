"""Read examples of every kind of task, and find errors before training."""

from __future__ import annotations

import json

import pytest

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.splits import hold_out
from attention_guidance.commands.finetuning.examples.tasks import TASKS, get_task
from attention_guidance.errors import ConfigError, CorpusError


def files(tmp_path, suffix="tsv", **contents):
    for split, content in contents.items():
        (tmp_path / f"{split}.{suffix}").write_text(content)
    return {split: tmp_path / f"{split}.{suffix}" for split in contents}


def of_texts(data):
    """The notes on repeated texts, without those on small splits."""
    return tuple(note for note in data.notes if " texts of " in note)


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
        "2 of 2 texts of dev are also in train, which inflates scores",
        "1 of 1 texts of test are also in train, which inflates scores",
        "1 of 1 texts of test are also in dev, on which learning rate and epoch are chosen",
    )


PLANTED = "The cat, he said, sat on the mat."


@pytest.mark.parametrize(
    "other",
    [
        PLANTED,
        "the cat, he said, Sat on the MAT.",
        " The  cat, he said,\u00a0sat on the mat.",
        "The cat, he said, sat on the mat",
        "The cat, he said, sat on the mat!?",
        "The cat , he said , sat on the mat .",
        "The cat, he said, sat on the mat.”",
        "Ｔｈｅ cat, he said, sat on the mat。",
        "The cat, he\u200b said, sat on the mat.",
    ],
)
def test_a_text_is_the_same_however_it_is_written(tmp_path, other):
    rows = "".join(f"text {n} of many\t{'xy'[n % 2]}\n" for n in range(40))
    given = files(tmp_path, train=f"text\tlabel\n{rows}{PLANTED}\tx\n",
                  dev="text\tlabel\nnew\tx\n", test=f"text\tlabel\n{other}\tx\n")  # fmt: skip
    data = read_examples(get_task("classify"), given)
    assert of_texts(data) == ("1 of 1 texts of test are also in train, which inflates scores",)
    # Both stay on the same side when examples are held out.
    given = files(tmp_path, train=f"text\tlabel\n{rows}" + "".join(f"{PLANTED}\tx\n{other}\tx\n" * 9))
    for seed in range(8):
        stay, out = hold_out(read_examples(get_task("classify"), given | {"dev": given["train"]}).splits["train"],
                             seed=seed)  # fmt: skip
        assert sum("cat" in e.texts[0].lower() for e in stay) in (0, 18)
        assert len(stay) + len(out) == 58


def test_texts_that_differ_in_more_are_two(tmp_path):
    for one, other in (("a b", "a c"), ("a, b", "a b"), ("great :)", "great :("), ("?", "!"), ("résumé", "resume")):
        given = files(tmp_path, train=f"text\tlabel\n{one}\tx\nb\ty\n", dev=f"text\tlabel\n{other}\tx\n")
        assert of_texts(read_examples(get_task("classify"), given)) == (), (one, other)


def test_sentences_are_compared_by_their_words_together(tmp_path):
    train, dev = "Ann B-PER\nsees O\nYork B-LOC\n. O\n", "ann B-PER\nsees O\nYork. B-LOC\n\nLee B-PER\n"
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=train, dev=dev))
    assert of_texts(data)[0] == "1 of 2 texts of dev are also in train, which inflates scores"


def test_one_text_with_two_labels_is_noted(tmp_path):
    given = files(
        tmp_path,
        train="text\tlabel\na b\tx\nA  b.\ty\nc\ty\nc\ty\n",
        dev="text\tlabel\na b\ty\nd\tx\n",
    )
    notes = of_texts(read_examples(get_task("classify"), given))
    train, dev = given["train"], given["dev"]
    differ = "have a different label than an earlier copy of the same text"
    assert notes[1:] == (
        f"1 of 4 texts of train {differ}, as at {train}:3 and {train}:2",
        f"1 of 2 texts of dev {differ}, as at {dev}:2 and {train}:2",
    )
    several = files(tmp_path, train="text\tlabels\na\tx|y\na\ty|x\na\tz\n", dev="text\tlabels\nb\tx\n")
    assert "1 of 3 texts of train have a different label" in of_texts(read_examples(get_task("multilabel"), several))[0]
    words = files(tmp_path, "txt", train="US B-LOC\n\nus O\n", dev="we O\nUS B-LOC\n")
    assert "1 of 2 texts of train have a different label" in of_texts(read_examples(get_task("ner"), words))[0]
    # Different numbers of one text may be averaged.
    numbers = files(tmp_path, train="text\tscore\na\t1\na\t2\n", dev="text\tscore\nb\t1\n")
    assert of_texts(read_examples(get_task("regress"), numbers)) == ()


@pytest.mark.parametrize(
    ("task", "header", "good", "bad"),
    [
        ("classify", "text\tlabel", "a {n}\tx\nb {n}\ty", ["a", "a\tx\ty"]),
        ("regress", "text\tscore", "a {n}\t1\nb {n}\t2", ["a\tlots", "a\tinf", "a"]),
        ("rte", "premise\thypothesis\tlabel", "a\t{n}\tx\nb\t{n}\ty", ["a\tb", "a\tb\tx\ty"]),
        ("multilabel", "text\tlabels", "a {n}\tx|y\nb {n}\t", ["a", "a\tx|y;z", "a\t[x"]),
        ("multilabel", "text\tlabels", "a {n}\t1 0 0\nb {n}\t0 1 1", ["a\t1 0", "a\t1 0 0 0"]),
        ("multilabel", "text\tx\ty", "a {n}\t1\t0\nb {n}\t0\t1", ["a\t1"]),
        ("ner", "", "a{n} B-X\nb{n} O\n", ["New York B-X\n", "w\n"]),
    ],
)
def test_a_few_malformed_examples_are_left_out_where_that_is_asked_for(tmp_path, task, header, good, bad):
    rows = [good.format(n=n) for n in range(40)]
    given = files(tmp_path, "txt", train="\n".join([header, *rows[:20], *bad, *rows[20:], ""]),
                  dev="\n".join([header, *rows[:9], ""]))  # fmt: skip
    with pytest.raises(CorpusError, match=r"train\.txt:\d+: "):
        read_examples(get_task(task), given)
    clean = files(tmp_path, "tsv" if task != "ner" else "conll", train="\n".join([header, *rows, ""]))
    data = read_examples(get_task(task), given, errors="skip")
    expected = read_examples(get_task(task), {**given, "train": clean["train"]})
    assert [e.texts for e in data.splits["train"]] == [e.texts for e in expected.splits["train"]]
    n, what = len(expected.splits["train"]), "sentences" if task == "ner" else "rows"
    assert data.notes[0].startswith(f"{len(bad)} of {n + len(bad)} {what} of train.txt are malformed and left out; the")
    # A label that training lacks is not malformed.
    if task == "classify":
        given = files(tmp_path, "txt", dev="text\tlabel\na\tz\n") | {"train": given["train"]}
        with pytest.raises(CorpusError, match="label 'z' is not in the training file"):
            read_examples(get_task(task), given, errors="skip")


def test_what_is_mostly_malformed_is_something_else(tmp_path):
    given = files(tmp_path, train="text\tlabel\na\tx\nb\ty\nc\n", dev="text\tlabel\na\tx\n")
    with pytest.raises(CorpusError, match=r"train\.tsv:4: 1 columns.*; 1 of 3 rows are malformed, too many"):
        read_examples(get_task("classify"), given, errors="skip")
    given = files(tmp_path, train="text\tscore\na\tx\nb\ty\n", dev="text\tscore\na\t1\n")
    with pytest.raises(CorpusError, match=r"train\.tsv: every row is malformed; the first: .*tsv:2: score 'x'"):
        read_examples(get_task("regress"), given, errors="skip")
    given = files(tmp_path, "jsonl", train='{"text": null, "label": "x"}\n{"text": ["a"], "label": "y"}\n',
                  dev='{"text": "a", "label": "x"}\n')  # fmt: skip
    with pytest.raises(CorpusError, match=r"every row is malformed; the first: .*jsonl:2: a list"):
        read_examples(get_task("classify"), given, errors="skip")


def json_rows(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("task", "labels", "none", "bad"),
    [
        ("classify", ["x", "y"], [None, "-", "", "null"], []),
        ("regress", [1, 2], [None, "nan", "", "-"], ["lots", "inf"]),
        ("multilabel", [["x"], ["x", "y"]], [None, "-", "nan"], ["x, y; z", "[x", [0.5], [None]]),
        ("multilabel", [[1, 0, 1], [0, 1, 0]], [None, "-"], [[1, 0], [1, 0, 0, 0]]),
    ],
)
def test_rows_without_a_gold_label_are_not_malformed(tmp_path, task, labels, none, bad):
    rows = [{"text": f"text {n}", "label": labels[n % 2]} for n in range(60)]
    odd = [{"text": f"odd {n}", "label": label} for n, label in enumerate([*none, *bad])]
    # Without a text, a labelled row is malformed, and an unlabelled row is left out as unlabelled.
    odd += [{"label": labels[0]}, {"text": None, "label": labels[0]}, {"label": None}]
    given = files(tmp_path, "jsonl", train=json_rows([*rows[:30], *odd, *rows[30:]]), dev=json_rows(rows[:20]))
    data = read_examples(get_task(task), given, errors="skip")
    assert [e.texts[0] for e in data.splits["train"]] == [row["text"] for row in rows]
    n_bad, n_none = len(bad) + 2, len(none) + 1
    assert f"{n_bad} of {60 + n_bad + n_none} rows of train.jsonl are malformed and left out; the first" in str(
        data.notes
    )
    assert f"{n_none} of {60 + n_none} rows of train.jsonl have no gold label: left out" in data.notes
    with pytest.raises(CorpusError, match=r"train\.jsonl:\d+: "):
        read_examples(get_task(task), given)


def test_labels_of_malformed_rows_alone_are_none(tmp_path):
    rows = [{"text": f"text {n}", "label": "xy"[n % 2]} for n in range(60)]
    given = files(tmp_path, "jsonl", train=json_rows([*rows, {"text": None, "label": "z"}]), dev=json_rows(rows))
    assert read_examples(get_task("classify"), given, errors="skip").labels == ("x", "y")


@pytest.mark.parametrize(
    ("task", "columns", "rows", "labels"),
    [
        ("multilabel", ["1", "2"], ["a\tx; y", "b\ty", "c\t"], ("x", "y")),
        ("multilabel", ["1", "2"], ["a\t['x', 'y']", "b\t['y']", "c\t[]"], ("x", "y")),
        ("multilabel", ["1", "2", "3"], ["a\t1\t0", "b\t0\t1", "c\t-1\t-1"], ("2", "3")),
        ("classify", ["2", "1"], ["\ta", "x\tb", "y\tc"], ("x", "y")),
    ],
)
def test_labels_of_tables_without_a_header(tmp_path, task, columns, rows, labels):
    given = files(tmp_path, train="\n".join([*rows, ""]))
    both = given | {"dev": given["train"]}
    data = read_examples(get_task(task), both, columns=columns)
    assert data.labels == labels
    assert sum(len(e) for e in data.splits.values()) == 2 * (3 - (task == "classify" or len(columns) == 3))
    files(tmp_path, train="\n".join(["\t".join(f"name {c}" for c in columns), *rows, ""]))
    with pytest.raises(CorpusError, match=r"train\.tsv:1: this line has a label that no other line has, 'name \d'"):
        read_examples(get_task(task), both, columns=columns)


@pytest.mark.shared
def test_colas_own_files(tmp_path, shared_data):
    """The four columns (source, label, the author's mark, sentence) have no header."""
    lines = (shared_data / "cola" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    (tmp_path / "in_domain_dev.tsv").write_text(
        "".join(f"gj04\t{label}\t{'' if label == '1' else '*'}\t{text}\n" for text, label in
                (line.split("\t") for line in lines)), encoding="utf-8")  # fmt: skip
    own, named = tmp_path / "in_domain_dev.tsv", shared_data / "cola" / "dev.tsv"
    data = read_examples(get_task("cola"), {"train": own, "dev": own}, columns=["4", "2"])
    expected = read_examples(get_task("cola"), {"train": named, "dev": named})
    assert [(e.texts, e.label) for e in data.splits["dev"]] == [(e.texts, e.label) for e in expected.splits["dev"]]


def test_dev_and_test_must_be_separate_files(tmp_path):
    given = files(tmp_path, train="text\tlabel\na\tx\nb\ty\n", dev="text\tlabel\na\tx\n")
    with pytest.raises(ConfigError, match=r"`dev` and `test` are the same file, .*dev\.tsv"):
        read_examples(get_task("classify"), given | {"test": tmp_path / "." / "dev.tsv"})


def test_words_without_entities_are_noted(tmp_path):
    tagged = "a LOC\nb O\nc PER\n"
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=tagged, dev=tagged))
    assert data.labels == ("O", "LOC", "PER")
    assert "the labels of train.txt have no B- and I-, so they are scored word by word (macro F1)" in data.notes[0]
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=tagged.lower(), dev=tagged.lower()))
    assert "the labels of train.txt have no B- and I-, so they are scored word by word" in data.notes[0]
    parts = "a NOUN\nb VERB\n"
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=parts, dev=parts))
    assert "word by word" not in str(data.notes)


def test_a_few_malformed_labels_are_not_another_scheme(tmp_path):
    """Alone, this dev could be IOB1; training begins entities with B-."""
    train, dev = "Ann B-PER\nhere O\nNew B-LOC\nYork I-LOC\n", "saw O\nJohn I-PER\nNew I-LOC\nYork I-LOC\n"
    both = files(tmp_path, "txt", train=train, dev=dev)
    with pytest.raises(CorpusError, match=r"dev\.txt:2: I-PER continues no entity"):
        read_examples(get_task("ner"), both)
    data = read_examples(get_task("ner"), both, repair=True)
    assert "2 entities of dev.txt began without B- and were repaired" in data.notes
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=dev, dev=dev))
    assert data.scheme == "IOB1"
    assert "train.txt is read as IOB1" in data.notes[0]
    # Training decides the scheme, even if the other splits look different.
    data = read_examples(get_task("ner"), files(tmp_path, "txt", train=dev, dev=train))
    assert data.scheme == "IOB1"


def test_labels_are_distinguished_by_their_words_alone(tmp_path):
    rows = [["a\tb", "c"], ["a  b", ""], "a b|c|", " a\tb ,c"]
    lines = "".join(json.dumps({"text": str(n), "labels": labels}) + "\n" for n, labels in enumerate(rows))
    data = read_examples(get_task("multilabel"), files(tmp_path, "jsonl", train=lines, dev=lines))
    assert set(data.labels) == {"a b", "c"}
    found = [{data.labels[n] for n, on in enumerate(e.label) if on} for e in data.splits["train"]]
    assert found == [{"a b", "c"}, {"a b"}, {"a b", "c"}, {"a b", "c"}]


def test_words_and_labels_need_two_columns():
    with pytest.raises(ConfigError, match="columns=1 1: words and labels cannot be in the same column"):
        read_examples(get_task("ner"), {}, columns=["1", "1"])


CLASSES, SCORES, PAIRS = "text\tlabel\n", "text\tscore\n", "sentence1\tsentence2\tlabel\na\tb"


@pytest.mark.parametrize(
    ("task", "suffix", "train", "dev", "message"),
    [
        ("classify", "tsv", f"{CLASSES}a\tx\nb\ty\n", f"{CLASSES}a\tx\nb\tz\n", r"dev\.tsv:3: label 'z' is not in"),
        ("classify", "tsv", f"{CLASSES}a\tx\n", f"{CLASSES}a\tx\n", r"train\.tsv: a single label \(x\)"),
        ("mrpc", "tsv", f"{PAIRS}\tx\na\tb\ty\na\tb\tz\n", f"{PAIRS}\tx\n", r"3 labels \(x, y, z\); mrpc needs two"),
        ("regress", "tsv", f"{SCORES}a\tlots\n", f"{SCORES}a\t1\n", r"train\.tsv:2: score 'lots' is not a number"),
        ("regress", "tsv", f"{SCORES}a\tnan\n", f"{SCORES}a\t1\n", r"train\.tsv:2: no label in column 'score', nor"),
        ("ner", "txt", "a O\nb O\n", "b B-PER\n", r"train\.txt: every word has the label O, so there is nothing"),
        ("ner", "txt", "a B-PER\n", "b O\nc O\n", r"dev\.txt: every word has the label O, so there is nothing"),
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
    with pytest.raises(ConfigError, match="task='glue': expected one of classify, pair"):
        get_task("glue")
    assert all(get_task(name).name == name for name in TASKS)
