"""`predict` gives the same labels as scoring, in every format, also on standard input."""

from __future__ import annotations

import io
import itertools
import json
import random
import shutil
import sys

import numpy as np
import pytest
import torch
from finetunings import words
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from transformers import AutoConfig, AutoModelForTokenClassification, RobertaForTokenClassification

from attention_guidance.commands.finetuning.decoding import Transitions, marginals
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.kept import KeptFits, Request
from attention_guidance.commands.finetuning.prediction.inputs import Item, read_items
from attention_guidance.commands.finetuning.prediction.outputs import csv_row, json_line
from attention_guidance.commands.finetuning.prediction.predictor import Prediction, Predictor
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.errors import CorpusError

FAST = ["--epochs", "2", "--seeds", "1", "-q", "--learning-rates", "5e-3", "--batch-size", "8"]
ENTITIES = {"PER": ("Aa", "ii"), "LOC": ("Oo", "ee"), None: ("", "")}


def labelled(chance, n, longest=14):
    sentences = []
    for _ in range(n):
        rows = []
        for _ in range(chance.randint(3, longest)):
            kind = chance.choice([*ENTITIES])
            begin, inside = ENTITIES[kind]
            rows += [(begin, f"B-{kind}"), (inside, f"I-{kind}")] if kind else [(words(chance)[0], "O")]
        sentences.append(rows)
    return sentences


@pytest.fixture(scope="module")
def tagger(tmp_path_factory, cli, whole_run):
    """An entity model with short windows, and its test file."""
    folder, chance, files = tmp_path_factory.mktemp("tagger"), random.Random(0), []
    for split, n in (("train", 60), ("dev", 20), ("test", 30)):
        blocks = ("".join(f"{word}\t{label}\n" for word, label in rows) for rows in labelled(chance, n))
        (folder / f"{split}.txt").write_text("\n".join(blocks))
        files += [f"--{split}", folder / f"{split}.txt"]
    assert cli("finetune", whole_run, "--task", "ner", *files, "-o", folder / "ft", *FAST, "--max-length", "24") == 0
    return folder


def scored(folder, name="test-seed-1-combined"):
    text = (folder / "ft" / "predictions" / f"{name}.txt").read_text()
    return [[(row.split()[0], row.split()[2]) for row in block.splitlines()] for block in text.strip().split("\n\n")]


def test_words_get_the_labels_that_were_scored(tmp_path, cli, tagger):
    out = tmp_path / "out.conll"
    assert cli("predict", tagger / "ft", tagger / "test.txt", "--words", "-o", out, "-q") == 0
    found = [[tuple(row.split("\t")) for row in block.splitlines()] for block in out.read_text().strip().split("\n\n")]
    assert found == scored(tagger)
    facts = json.loads((tagger / "ft" / "finetune.json").read_text())
    assert facts["data"]["test"]["windowed"] > 0
    # An existing file is not overwritten unless asked.
    assert cli("predict", tagger / "ft" / "model", tagger / "test.txt", "--words", "-o", out, "-q") == 2
    assert cli("predict", tagger / "ft" / "model", tagger / "test.txt", "--words", "-o", out, "-q", "--overwrite") == 0


def test_torch_built_for_a_gpu_that_is_not_there(tmp_path, tagger, monkeypatch):
    """What pip installs on Linux; it names the accelerator that it was built for unless asked whether there is one."""
    built_for = torch.device("cuda")
    monkeypatch.setattr(
        torch.accelerator,
        "current_accelerator",
        lambda check_available=False: built_for if torch.cuda.is_available() or not check_available else None,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor.load(str(tagger / "ft"))
    assert predictor.model.device.type == device
    kept = KeptFits(tmp_path, Request("", "0" * 32))
    shutil.copytree(tagger / "ft" / "model", kept.folder / "fit")
    assert kept.load("fit", predictor.data, FitSettings()).device.type == device


def test_without_the_baseline_it_is_the_model_alone(tmp_path, cli, tagger):
    predictor = Predictor.load(str(tagger / "ft"))
    alone = Predictor(predictor.data, predictor.model, predictor.tokenizer, predictor.longest)
    sentences = [[word for word, _ in rows] for rows in scored(tagger)]
    labels = [[*prediction.labels] for prediction in alone(sentences)]
    assert labels == [[label for _, label in rows] for rows in scored(tagger, "test-seed-1")]


def test_sentences_are_found_words_in_and_entities_have_their_places(cli, tagger, monkeypatch, capsys):
    text = "Aa ii, Oo ee (Aa)."
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(f"\ufeff{text}\n\n  \nOo\n".encode())))
    )
    assert cli("predict", tagger / "ft", "-") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["place"] for row in rows] == ["standard input:1", "standard input:4"]
    assert rows[0]["words"] == ["Aa", "ii", ",", "Oo", "ee", "(", "Aa", ")", "."]
    assert all(0 < score <= 1 for row in rows for score in row["scores"])
    for row in rows:
        for entity in row["entities"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]
    assert [(e["type"], e["text"]) for e in rows[0]["entities"]][:2] == [("PER", "Aa ii"), ("LOC", "Oo ee")]


def test_marks_stay_within_their_words(tagger):
    file = tagger / "yo.txt"
    file.write_text("Ọjọ́ kẹẹ̀dógún, ng'ombe wa-Swahili; U.S. 3.5%\n", encoding="utf-8")
    (item,) = read_items(Predictor.load(str(tagger / "ft")).data.task, str(file))
    assert item.texts == ("Ọjọ́", "kẹẹ̀dógún", ",", "ng'ombe", "wa-Swahili", ";", "U.S", ".", "3.5", "%")


@pytest.mark.parametrize(
    ("task", "labels", "header", "pair"),
    [
        ("classify", ["x", "y", "z"], "text\tlabel", False),
        ("pair", ["x", "y"], "sentence1\tsentence2\tlabel", True),
        ("multilabel", ["x", "y"], "text\tlabels", False),
        ("regress", [1.0, 2.0, 3.0], "text\tscore", False),
    ],
)
def test_texts_get_what_was_scored(tmp_path, cli, whole_run, table, task, labels, header, pair):
    files = table(labels, header, pair, n=24)
    assert cli("finetune", whole_run, "--task", task, *files, "-o", tmp_path / "ft", *FAST) == 0
    out, test = tmp_path / "out.jsonl", tmp_path / "test.tsv"
    assert cli("predict", tmp_path / "ft", test, "-o", out, "-q") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    combined = "-combined" if task in ("classify", "pair") else ""
    kept = (tmp_path / "ft" / "predictions" / f"test-seed-1{combined}.tsv").read_text().splitlines()[1:]
    wanted = [line.split("\t")[-1] for line in kept]
    if task == "regress":
        assert [row["value"] for row in rows] == pytest.approx([*map(float, wanted)], rel=1e-5)
    else:
        assert ["|".join(row["labels"]) for row in rows] == wanted
        assert all(len(row["scores"]) == len(row["labels"]) for row in rows)
    # The same from lines; a pair has two texts.
    lines = tmp_path / "lines.txt"
    lines.write_text("".join(line.rpartition("\t")[0] + "\n" for line in test.read_text().splitlines()[1:]))
    assert cli("predict", tmp_path / "ft", lines, "-o", tmp_path / "lines.tsv", "-q") == 0
    shown = [line.split("\t") for line in (tmp_path / "lines.tsv").read_text().splitlines()]
    assert [row[2 + pair] for row in shown] == [
        " ".join(row["labels"]) if "labels" in row else repr(row["value"]) for row in rows
    ]


def test_a_model_of_others_is_read_by_its_head(tmp_path, cli, tagger, capsys):
    folder = tmp_path / "theirs"
    model = AutoModelForTokenClassification.from_pretrained(tagger / "ft" / "model")
    model.save_pretrained(folder)
    Predictor.load(str(tagger / "ft")).tokenizer.save_pretrained(folder)
    theirs = Predictor.load(str(folder))
    assert (theirs.data.scheme, theirs.partner) == ("BIO", None)
    assert theirs([["Aa", "ii"]])[0].labels[0] in theirs.data.labels
    assert cli("predict", tagger / "ft", tagger / "no.txt", "-o", tmp_path / "a.jsonl") == 2
    config = AutoConfig.from_pretrained(folder)
    config.architectures = ["RobertaForMaskedLM"]
    config.save_pretrained(folder)
    assert cli("predict", folder, tagger / "test.txt", "-o", tmp_path / "a.jsonl") == 2
    assert "has no head for texts or words; fine-tune it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["test.txt", "-o", "a.xml"], "--output a.xml: expected a name that ends in .jsonl"),
        (
            ["test.txt", "-o", "a.jsonl"],
            "test.txt:1: a tab in a sentence; if the file has a word per line, set --words",
        ),
        (["empty.txt", "-o", "a.jsonl"], "empty.txt: no text to predict on"),
        (["test.txt", "--words", "--columns", "3", "-o", "a.jsonl"], "test.txt:1: no word in column 3"),
        (["test.txt", "--words", "--columns", "x", "-o", "a.jsonl"], "expected the number of the column of words"),
        # Of a sentence in a line, only the first word would get a label.
        (
            ["sentences.txt", "--words", "-o", "a.jsonl"],
            "sentences.txt:2: 2 columns, but the first word has 4; expected one word per line, or leave out --words",
        ),
        (["later.txt", "--words", "-o", "a.jsonl"], "later.txt:4: 2 columns, but the first word has 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, cli, tagger, monkeypatch, capsys, given, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentences.txt").write_text("Aa bb cc dd\nAa bb\n")
    (tmp_path / "later.txt").write_text("Aa\nbb\n\nAa bb\n")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "test.txt").write_text((tagger / "test.txt").read_text())
    assert cli("predict", tagger / "ft", *given, "-q") == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not [*tmp_path.glob("a.*")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"task": "classify", "scheme": None},
            "task.json is of the task classify, but the model is a RobertaForTokenClassification",
        ),
        ({"task": "regress", "labels": [], "scheme": None}, "task.json is of the task regress, but the model is a"),
        (
            {"labels": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]},
            "task.json has the labels O B-PER I-PER B-ORG I-ORG, but the model has ",
        ),
        ({"labels": ["O", "B-PER"]}, "task.json has the labels O B-PER, but the model has "),
    ],
)
def test_a_task_that_is_not_the_models_is_refused(tmp_path, cli, tagger, capsys, change, said):
    """A head of another task would be replaced by one that was never trained, and labels would have other names."""
    folder = tmp_path / "model"
    shutil.copytree(tagger / "ft" / "model", folder)
    (folder / "seal.json").unlink()  # as of a folder that was put together by hand
    task = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps(task | {"encoder_weight": None} | change))
    assert cli("predict", folder, tagger / "test.txt", "--words", "-o", tmp_path / "a.jsonl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "give the folder that finetune wrote" in line
    assert not (tmp_path / "a.jsonl").exists()


def test_a_label_beside_a_text_is_not_read_as_text(tmp_path):
    (tmp_path / "a.txt").write_text("a text\n\nanother\tpos\n")
    with pytest.raises(CorpusError, match=r"a.txt:3: a tab in a text, but classify reads single texts"):
        list(read_items(get_task("classify"), str(tmp_path / "a.txt")))


def test_a_damaged_baseline_is_refused(tmp_path, cli, tagger, capsys):
    shutil.copytree(tagger / "ft" / "model", tmp_path / "model")
    (tmp_path / "model" / "baseline.json").write_text('{"names": [["a"]]}')
    assert cli("predict", tmp_path / "model", tagger / "test.txt", "-o", tmp_path / "a.jsonl") == 2
    assert "task.json or the baseline beside it is damaged; fine-tune again" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["task.json", "baseline.json", "baseline.safetensors", "model.safetensors"])
def test_a_flipped_byte_is_refused(tmp_path, cli, tagger, capsys, name):
    """Also one that leaves a file readable, so that it would only predict other labels."""
    shutil.copytree(tagger / "ft" / "model", tmp_path / "model")
    content = bytearray((tmp_path / "model" / name).read_bytes())
    content[-6] ^= 1
    (tmp_path / "model" / name).write_bytes(content)
    assert cli("predict", tmp_path / "model", tagger / "test.txt", "-o", tmp_path / "a.jsonl") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "damaged" in line
    assert "fine-tune again" in line
    assert not (tmp_path / "a.jsonl").exists()


def test_scores_that_are_not_numbers_are_no_labels(tmp_path, cli, tagger, capsys, monkeypatch):
    forward = RobertaForTokenClassification.forward

    def spoiled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        output.logits[-1, 1, 0] = float("nan")
        return output

    monkeypatch.setattr(RobertaForTokenClassification, "forward", spoiled)
    assert cli("predict", tagger / "ft", tagger / "test.txt", "--words", "-o", tmp_path / "a.jsonl") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the model computes NaN or infinite scores, so its predictions would mean nothing")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("seed", range(3))
def test_marginals_are_those_of_all_sequences(seed):
    chance = np.random.default_rng(seed)
    scores, rules = chance.normal(size=(4, 3)), Transitions(chance.normal(size=3), chance.normal(size=(3, 3)))
    rules.between[0, 2] = -np.inf
    paths = np.array([*itertools.product(range(3), repeat=4)])
    total = (
        rules.start[paths[:, 0]]
        + scores[np.arange(4), paths].sum(1)
        + rules.between[paths[:, :-1], paths[:, 1:]].sum(1)
    )
    shares = softmax(total)
    expected = [[shares[paths[:, n] == label].sum() for label in range(3)] for n in range(4)]
    np.testing.assert_allclose(marginals(scores, rules), expected, atol=1e-12)


def test_the_card_runs(tagger, monkeypatch, capsys):
    text = (tagger / "ft" / "model" / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    exec(code.replace("FOLDER", str(tagger / "ft" / "model")))
    assert "Prediction(labels=(" in capsys.readouterr().out
    assert "The predictions combine the encoder with the model without pre-training" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी में।", ["हिन्दी", "में", "।"]),
        ("می\u200cروم שָׁלוֹם", ["می\u200cروم", "שָׁלוֹם"]),
        ("❤\ufe0f!", ["❤\ufe0f", "!"]),
    ],
)
def test_marks_of_all_scripts_stay_within_their_words(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert [[*item.texts] for item in read_items(get_task("ner"), str(tmp_path / "a.txt"))] == [words]


@pytest.mark.parametrize(
    ("name", "content", "sentences"),
    [
        ("a.conll", "-DOCSTART- -X- O\n\nAa O\n\u00a0 O\n\n# O\n#tag O\n", [["Aa", "\u00a0"], ["#", "#tag"]]),
        ("a.conll", "# id 12345678-x domain=en\nAa O\n", [["Aa"]]),
        ("a.conll", "Aa\tB-PER\nii\t\n\nBb\n", [["Aa", "ii"], ["Bb"]]),  # not all are labelled yet
        ("a.conll", "en:Aa O\nen:: O\n", [["Aa", ":"]]),
        ("a.conll", "en:Aa O\nii O\n", [["en:Aa", "ii"]]),
        ("a.conllu", "# text = x\n1-2\tdu\n1\tde\n2\tle\n2.1\tx\n\n# newdoc\n1\tAa\n", [["de", "le"], ["Aa"]]),
    ],
)
def test_files_of_words_are_read_as_for_scoring(tmp_path, name, content, sentences):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [[*item.texts] for item in read_items(get_task("ner"), str(tmp_path / name))] == sentences


@pytest.mark.parametrize(
    ("name", "content", "columns", "texts"),
    [
        ("a.csv", "aa b\ncc d\n", ["1"], ["aa b", "cc d"]),
        ("a.tsv", "aa, b\ncc; d\n", ["1"], ["aa, b", "cc; d"]),
        ("a.csv", "1,2\nx,y\n", ["2"], ["y"]),
        ("a.json", '[{"text": "a"}, {"text": 0}]', None, ["a", "0"]),
    ],
)
def test_tables_of_texts_alone(tmp_path, name, content, columns, texts):
    (tmp_path / name).write_text(content)
    found = read_items(get_task("classify"), str(tmp_path / name), columns=columns)
    assert [item.texts[0] for item in found] == texts


def test_a_table_of_lists_is_refused(tmp_path, cli, tagger, capsys):
    (tmp_path / "a.jsonl").write_text('{"text": ["a", "b"]}')
    assert cli("predict", tagger / "ft", tmp_path / "a.jsonl") == 2
    assert "a.jsonl:1: a list or an object in column 'text'" in capsys.readouterr().err


def test_entities_of_iobes_and_of_no_entities():
    words, spans = ("a", "b", "c", "d"), ((0, 1), (2, 3), (4, 5), (6, 7))
    item, scores = Item("x:1", words, "a b c d", spans), (0.5,) * 4

    def found(labels, of_words):
        data = Data(get_task("ner"), labels, {}, {})
        return json.loads(json_line(data, item, Prediction(of_words, scores))).get("entities")

    iobes = ("O", "B-X", "I-X", "E-X", "S-X")
    assert [e["text"] for e in found(iobes, ("B-X", "E-X", "S-X", "S-X"))] == ["a b", "c", "d"]
    assert [e["text"] for e in found(("O", "B-X", "I-X", "I-Y"), ("I-X", "I-X", "B-X", "I-Y"))] == ["a b", "c", "d"]
    assert found(iobes, ("O",) * 4) == []
    assert found(("O", "NOUN"), ("O",) * 4) is None


def test_cells_of_csv_are_no_formulas():
    data = Data(get_task("classify"), ("-", "+"), {}, {})
    assert csv_row(data, Item("a:1", ("=1+1",), "=1+1"), Prediction(("-",), (0.5,))) == "a:1,'=1+1,'-,0.5000\n"
    assert csv_row(data, Item("a:1", ("x",), "x"), Prediction(-0.5, ())) == "a:1,x,-0.5,\n"


def test_what_would_fail_after_predicting_is_refused_before(tmp_path, cli, tagger, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("Aa\n")
    (tmp_path / "dir.jsonl").mkdir()

    def refused(*given):
        assert cli("predict", *given) == 2
        return capsys.readouterr().err

    model = tagger / "ft"
    assert "a.txt is an input; give another output" in refused(model, "a.txt", "-o", "a.txt", "--overwrite")
    assert (tmp_path / "a.txt").read_text() == "Aa\n"
    assert "dir.jsonl is a folder" in refused(model, "a.txt", "-o", "dir.jsonl", "--overwrite")
    assert "a.txt is a file; give a folder" in refused(model, "a.txt", "-o", "a.txt/x.jsonl")
    assert "no.txt: cannot be read" in refused(tmp_path / "nowhere", "a.txt", "no.txt")
    assert "nowhere: no such folder; give the folder of a model" in refused(tmp_path / "nowhere", "a.txt")
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed; give a file" in refused(model, "-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"Aa\rOo\r"))))
    assert "standard input: lines end with a carriage return alone" in refused(model, "-")
    monkeypatch.setattr(sys, "stdout", None)
    assert "standard output is closed" in refused(model, "a.txt")


def test_standard_output_is_utf_8(cli, tagger, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Ọjọ́", encoding="utf-8")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    assert cli("predict", tagger / "ft", tmp_path / "a.txt") == 0
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode())["text"] == "Ọjọ́"


@pytest.mark.parametrize("change", ["labels", "rows", "nan"])
def test_a_baseline_of_another_model_is_refused(tmp_path, cli, tagger, capsys, change):
    shutil.copytree(tagger / "ft" / "model", tmp_path / "model")
    file = tmp_path / "model" / "baseline.safetensors"
    arrays = load_file(file)
    if change == "labels":
        arrays = {"weights": arrays["weights"][:, :1].copy(), "between": arrays["between"][:1, :1].copy()}
    elif change == "rows":
        arrays["between"] = arrays["between"][:1].copy()
    else:
        arrays["weights"][0, 0] = np.nan
    save_file(arrays, file)
    assert cli("predict", tmp_path / "model", tagger / "test.txt", "--words") == 2
    assert "task.json or the baseline beside it is damaged; fine-tune again" in capsys.readouterr().err
