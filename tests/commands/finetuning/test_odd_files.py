"""Files of entities as they are in the world: what is read, written and scored is right, counted independently.

Thousands of generated files; entities are counted from the predictions on the disk by conlleval's rules, written anew,
and by seqeval.
"""

from __future__ import annotations

import random

import pytest
from finetunings import read
from seqeval.metrics import f1_score, precision_score, recall_score

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions, write_predictions
from attention_guidance.commands.finetuning.scoring.scores import evaluate

N_FILES, N_WITH_SEQEVAL = 6000, 1000
KINDS = ("PER", "LOC", "ORG")
WORDS = (
    "Ann",
    "a",
    "is",
    "New",
    "42%",
    ".",
    ":",
    "#",
    "#tag",
    "-",
    "D'Or",
    "O",
    "B-PER",
    "日本",
    "\u200b",
    "a\u00a0b",
    "é",
)
SPACES = ("\u00a0", "\u3000", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u2003", "\u1680")
COMMENTS = (
    "# id f5458a3a-cd23-4df4-8384-4e23fe33a66b\tdomain=en", "# id f5458a3a-cd23", "# text = Ann is O", "# sent_id = 7",
    "#begin document (bc/00); part 000", "#end document",
)  # fmt: skip
DOCUMENTS = ("-DOCSTART- (1 China)", "-DOCSTART- -X- O O", "-DOCSTART-", "-DOCSTART- (947testa CRICKET)\tO")


def made_up(chance):
    """Sentences of words and BIO labels, with an entity in the first."""
    for number in range(chance.randint(1, 4)):
        words, tags = [], []
        while len(words) < chance.randint(1, 6):
            kind = chance.choice((*KINDS, None, None)) if number or words else "PER"
            length = chance.randint(1, 3) if kind else 1
            words += chance.choices((*WORDS, chance.choice(SPACES)), k=length)
            tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)] if kind else ["O"]
        yield words, tags


def as_scheme(tags, scheme):
    """BIO labels as IOBES; BIO stays."""
    if scheme == "BIO":
        return tags
    found = []
    for tag, after in zip(tags, [*tags[1:], "O"], strict=True):
        goes_on = after[:1] == "I"
        found.append({"B": "B" if goes_on else "S", "I": "I" if goes_on else "E", "O": "O"}[tag[0]] + tag[1:])
    return found


def file_of(sentences, chance):
    """The bytes of an unusual file with these sentences."""
    mark, end = chance.choice((" ", "\t", " _ _ ", "\tNN\t")), chance.choice(("\n", "\n", "\r\n"))
    language = chance.choice(("", "", "en:", "zh-min-nan:"))
    scheme = chance.choice(("BIO", "IOBES"))
    lines = []
    for words, tags in sentences:
        lines += [line for line in [chance.choice(DOCUMENTS)] if chance.random() < 0.2]
        lines += chance.choices(("", " ", "\u00a0"), k=chance.randint(1, 2))
        lines += chance.choices(COMMENTS, k=chance.choice((0, 0, 1, 2)))
        lines += [f"{language}{w}{mark}{t}" for w, t in zip(words, as_scheme(tags, scheme), strict=True)]
    return (chance.choice(("", "\ufeff")) + end.join([*lines, ""])).encode()


def spans(sentences):
    """Entities as in conlleval: one begins at B-, or where the type changes."""
    found = set()
    for number, tags in enumerate(sentences):
        start = None
        for at, tag in enumerate([*tags, "O"]):
            before = tags[at - 1] if at else "O"
            if before != "O" and (tag[0] in "BO" or tag[2:] != before[2:]):
                found.add((number, start, at, before[2:]))
            if tag != "O" and (tag[0] == "B" or before == "O" or tag[2:] != before[2:]):
                start = at
    return found


@pytest.mark.parametrize("part", range(4))
def test_f1_is_that_of_the_predictions_on_the_disk(tmp_path, part):
    path, task = tmp_path / "odd.txt", get_task("ner")
    for number in range(part * N_FILES // 4, (part + 1) * N_FILES // 4):
        chance = random.Random(number)
        sentences = [*made_up(chance)]
        path.write_bytes(file_of(sentences, chance))
        data = read_examples(task, {"train": path, "dev": path})
        examples = data.splits["dev"]
        assert [list(e.texts) for e in examples] == [words for words, _ in sentences], number
        assert [[data.labels[n] for n in e.label] for e in examples] == [tags for _, tags in sentences], number
        keep = chance.choice((0, 0.5, 0.9, 1))
        guesses = [
            tuple(n if chance.random() < keep else chance.randrange(len(data.labels)) for n in e.label)
            for e in examples
        ]
        write_predictions(tmp_path, data, "dev", 1, guesses)
        gold, guess = (
            [list(tags) for tags in side]
            for side in zip(*(zip(*rows, strict=True) for rows in rows_of(tmp_path)), strict=True)
        )
        assert gold == [tags for _, tags in sentences]
        assert guess == [[data.labels[n] for n in tags] for tags in guesses]
        again = read_predictions(tmp_path, "dev", "tokens", [1])
        assert ([list(t) for t in again.gold], [list(t) for t in again.predicted[0]]) == (gold, guess)
        right, found = spans(gold), spans(guess)
        metrics = evaluate(data, examples, guesses)
        n = len(right & found)
        assert metrics["precision"] == pytest.approx(n / len(found) if found else 0), number
        assert metrics["recall"] == pytest.approx(n / len(right)), number
        assert metrics["f1"] == pytest.approx(2 * n / (len(right) + len(found))), number
        if number % 4 == 0 and number < 4 * N_WITH_SEQEVAL:
            for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
                assert metrics[name] == pytest.approx(score(gold, guess, zero_division=0)), number


def rows_of(folder):
    """Gold and predicted labels of each word, by sentence, read independently."""
    text = (folder / "predictions" / "dev-seed-1.txt").read_text(encoding="utf-8")
    for block in text.rstrip("\n").split("\n\n"):
        rows = [line.split() for line in block.splitlines()]
        assert all(len(row) == 3 for row in rows)
        yield [row[1:] for row in rows]


def test_the_command_leaves_out_what_is_malformed_where_asked(tmp_path, cli, whole_run, table, capsys):
    files = table(["x", "y"], n=32)
    with files[1].open("a") as train:
        train.write("one\ttoo\tmany\n")
    fast = ["--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1", "--no-baseline", "-q"]
    command = ["finetune", whole_run, "--task", "classify", *files, "-o", tmp_path / "out", *fast]
    assert cli(*command) == 2
    assert "train.tsv:34: 3 columns; the header has 2 (text, label)" in capsys.readouterr().err
    assert cli(*command, "--errors", "skip") == 0
    content = read(tmp_path / "out")
    assert content["data"]["train"]["examples"] == 32
    assert content["notes"][0].startswith("1 of 33 rows of train.tsv are malformed and left out; the first: ")
