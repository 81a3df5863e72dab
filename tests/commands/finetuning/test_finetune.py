"""`finetune` from the command line: every kind of task trains, writes its results, and refuses bad input."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
from finetunings import read, words
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.runner import at_the_end

FAST = ["--epochs", "10", "--batch-size", "8", "--learning-rates", "5e-3", "--dropout", "0", "--seeds", "2", "-q"]


def test_classification_learns_and_writes(tmp_path, cli, whole_run, table):
    out = tmp_path / "out"
    assert cli("finetune", whole_run, "--task", "classify", *table(["x", "y", "z"]), "-o", out, *FAST) == 0
    content = read(out)
    assert (content["kind"], content["schema_version"], content["split"]) == ("finetune", 1, "test")
    assert content["scores"]["accuracy"]["mean"] > 0.8
    accuracies = [seed["test"]["accuracy"] for seed in content["seeds"]]
    assert content["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert [seed["seed"] for seed in content["seeds"]] == [1, 2]
    for seed in content["seeds"]:
        on_dev = [metrics["accuracy"] for metrics in seed["dev_by_epoch"]]
        # The first of the best epochs, with the scores of its weights.
        assert seed["epoch"] == 1 + on_dev.index(max(on_dev))
        assert seed["dev"]["accuracy"] == pytest.approx(max(on_dev))
    lines = (out / "predictions" / "test-seed-1.tsv").read_text().splitlines()
    right = [line.split("\t")[1] == line.split("\t")[2] for line in lines[1:]]
    assert (lines[0], len(right)) == ("text1\tgold\tpredicted", 24)
    assert np.mean(right) == pytest.approx(accuracies[0])
    assert set(content["per_class"]) == {"x", "y", "z"}
    # The first word determines the label, so character n-grams suffice.
    assert content["baseline"]["test"]["accuracy"] > 0.9
    lines = (out / "predictions" / "test-baseline.tsv").read_text().splitlines()
    right = [line.split("\t")[1] == line.split("\t")[2] for line in lines[1:]]
    over = content["over_baseline"]
    assert over["value"] == pytest.approx(np.mean(accuracies) - np.mean(right))
    assert over["low"] <= over["value"] <= over["high"]
    combined = content["combined"]
    assert set(combined["weights"]) == {"1", "2"}
    rows = [
        [
            line.split("\t")[1:]
            for line in (out / "predictions" / f"test-seed-{seed}-combined.tsv").read_text().splitlines()
        ]
        for seed in (1, 2)
    ]
    correct = [np.mean([gold == guess for gold, guess in of_seed[1:]]) for of_seed in rows]
    assert combined["scores"]["accuracy"]["mean"] == pytest.approx(np.mean(correct))
    assert combined["over_baseline"]["value"] == pytest.approx(np.mean(correct) - np.mean(right))
    assert combined["over_model"]["value"] == pytest.approx(np.mean(correct) - np.mean(accuracies))
    assert (out / "confusion.svg").exists()
    model = AutoModelForSequenceClassification.from_pretrained(out / "model")
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}
    AutoTokenizer.from_pretrained(out / "model")


@pytest.mark.parametrize(
    ("task", "labels", "header", "pair", "metric", "least"),
    [
        ("rte", ["no", "yes"], "sentence1\tsentence2\tlabel", True, "accuracy", 0.8),
        ("cola", [0, 1], "sentence\tlabel", False, "matthews", 0.5),
        ("multilabel", ["x", "y", "x|y"], "text\tlabels", False, "macro_f1", 0.7),
        ("multilabel", [0, 1], "text\ttoxic", False, "macro_f1", 0.7),
        ("regress", [-1.0, 0.0, 1.0], "text\tscore", False, "pearson", 0.7),
    ],
)
def test_other_tasks_learn(tmp_path, cli, whole_run, table, task, labels, header, pair, metric, least):
    out = tmp_path / "out"
    arguments = table(labels, header, pair)
    assert cli("finetune", whole_run, "--task", task, *arguments, "-o", out, *FAST) == 0
    content = read(out)
    assert content["metric"] == metric
    assert content["scores"][metric]["mean"] > least
    assert content["baseline"]["test"][metric] > least


def test_entities_learn_with_windows_and_guidance(tmp_path, cli, whole_run):
    chance = random.Random(0)
    arguments = []
    for split, n in (("train", 60), ("dev", 20)):
        lines = []
        for _ in range(n):
            for _ in range(chance.randint(3, 14)):
                kind = chance.choice(["PER", "LOC", None])
                begin, inside = {"PER": ("aa", "ii"), "LOC": ("oo", "ee"), None: ("", "")}[kind]
                lines += [f"{begin} B-{kind}", f"{inside} I-{kind}"] if kind else [f"{words(chance)[0]} O"]
            lines.append("")
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
        arguments += [f"--{split}", tmp_path / f"{split}.txt"]
    out = tmp_path / "out"
    more = ["--heads", "next:1", "--weight", "0.01", "--max-length", "24"]
    assert cli("finetune", whole_run, "--task", "ner", *arguments, "-o", out, *FAST, *more) == 0
    content = read(out)
    assert content["split"] == "dev"
    assert content["data"]["dev"]["windowed"] > 0
    assert content["scores"]["f1"]["mean"] > 0.9
    assert content["baseline"]["dev"]["f1"] > 0.9
    assert set(content["per_class"]) == {"LOC", "PER"}
    predicted = (out / "predictions" / "dev-seed-1.txt").read_text().splitlines()
    gold = (tmp_path / "dev.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[0] for line in predicted if line] == [line for line in gold if line]
    model = AutoModelForTokenClassification.from_pretrained(out / "model")
    assert model.config._attn_implementation == "sdpa"


def test_the_learning_rate_is_chosen_on_dev(tmp_path, cli, whole_run, table):
    rates = [
        "--learning-rates",
        "1e-7",
        "5e-3",
        "--epochs",
        "4",
        "--seeds",
        "1",
        "--dropout",
        "0",
        "--batch-size",
        "8",
        "-q",
    ]
    out = tmp_path / "out"
    assert cli("finetune", whole_run, "--task", "classify", *table(["x", "y"]), "-o", out, *rates) == 0
    content = read(out)
    assert content["learning_rate"] == 5e-3
    assert content["learning_rates"]["1e-07"] < content["learning_rates"]["0.005"]
    assert content["notes"] == [
        "the best learning rate on dev, 0.005, is the highest one tried; a higher one may be better"
    ]
    assert content["scores"]["accuracy"]["std"] is None


def test_text_in_another_form_than_the_tokenizers_is_noted(tmp_path, cli, whole_run, table):
    files = table(["x", "y"])
    for path in files[1::2]:
        path.write_text(path.read_text().replace("aa", "a\u0301a\u0301"))
    other = tmp_path / "other"
    shutil.copytree(whole_run / "model", other)
    saved = json.loads((other / "tokenizer.json").read_text())
    assert saved["normalizer"] == {"type": "NFC"}
    (other / "tokenizer.json").write_text(json.dumps(saved | {"normalizer": None}))
    for model, n_notes in ((whole_run, 0), (other, 1)):
        out = tmp_path / f"out-{n_notes}"
        assert cli("finetune", model, "--task", "classify", *files, "-o", out, *FAST, "--epochs", "1") == 0
        notes = [note for note in read(out)["notes"] if "form" in note]
        assert len(notes) == n_notes
    assert notes[0].startswith("the text is not in the Unicode form that the tokenizer was trained on: in NFC it has")


def test_a_single_best_rate_at_an_end_is_noted():
    assert at_the_end({1e-4: 0.5, 1e-3: 0.6}, [1e-4, 1e-3]) == [
        "the best learning rate on dev, 0.001, is the highest one tried; a higher one may be better"
    ]
    assert "0.0001, is the lowest one tried; a lower one" in at_the_end({1e-4: 0.7, 1e-3: 0.6}, [1e-3, 1e-4])[0]
    for scores in ({1e-4: 0.5, 1e-3: 0.5}, {1e-4: 0.5, 1e-3: 0.6, 1e-2: 0.5}, {1e-3: 0.5}):
        assert at_the_end(scores, [*scores]) == []


def test_the_same_seed_gives_the_same_scores(tmp_path, cli, whole_run, table):
    arguments = ["finetune", whole_run, "--task", "classify", *table(["x", "y"], n=24), "--epochs", "2"]
    found = []
    for name in ("a", "b"):
        rest = ["--learning-rates", "1e-3", "--seeds", "1", "-o", tmp_path / name, "-q"]
        assert cli(*arguments, *rest) == 0
        found.append([seed["dev_by_epoch"] for seed in read(tmp_path / name)["seeds"]])
    assert found[0] == found[1]


def test_downstream_compares_and_resumes(tmp_path, cli, whole_run, many_models, table, capsys):
    arguments = ["--task", "classify", *table(["x", "y"], n=64), "--epochs", "2", "--learning-rates", "5e-3"]
    out = tmp_path / "out"
    command = ["downstream", whole_run, many_models, *arguments, "--seeds", "2", "-o", out]
    assert cli(*command) == 0
    content = json.loads((out / "downstream.json").read_text())
    assert [model["model"] for model in content["models"]] == ["run", "other"]
    assert content["baseline"] == read(out / "run")["baseline"]
    assert content["baseline"] == read(out / "other")["baseline"]
    both = [read(out / name)["combined"]["scores"]["accuracy"]["mean"] for name in ("run", "other")]
    assert [model["mean"] for model in content["combined"]] == both
    assert content["combined_differences"][0]["value"] == pytest.approx(both[1] - both[0])
    (gap,) = content["differences"]
    assert (gap["model"], gap["minus"]) == ("other", "run")
    means = [read(out / name)["scores"]["accuracy"]["mean"] for name in ("run", "other")]
    assert gap["value"] == pytest.approx(means[1] - means[0])
    assert gap["verdict"] in capsys.readouterr().out
    before = (out / "run" / "finetune.json").read_bytes()
    assert cli(*command) == 2  # nothing is overwritten unless asked
    assert cli(*command, "--resume") == 0
    assert (out / "run" / "finetune.json").read_bytes() == before
    assert "run: already scored" in capsys.readouterr().out
    other = [*command[:-4], "--seeds", "1", "-o", out, "--resume", "-q"]
    assert cli(*other) == 2
    assert "holds scores of another model, other files or settings" in capsys.readouterr().err
    assert (out / "run" / "finetune.json").read_bytes() == before
    assert cli(*other, "--overwrite") == 0
    assert (out / "run" / "finetune.json").read_bytes() != before
    # Different text under the same name is a different request.
    before = (out / "run" / "finetune.json").read_bytes()
    test = tmp_path / "test.tsv"
    test.write_text(test.read_text().replace("\tx", "\ty"))
    assert cli(*other) == 2
    assert cli(*other[:-1], "--overwrite") == 0
    assert "already scored" not in capsys.readouterr().out
    assert (out / "run" / "finetune.json").read_bytes() != before


def test_a_model_is_not_overwritten_by_what_it_becomes(tmp_path, cli, whole_run, table, capsys):
    model = shutil.copytree(whole_run / "model", tmp_path / "mine" / "model")
    before = (model / "model.safetensors").read_bytes()
    command = ["finetune", model, "--task", "classify", *table(["x", "y"]), "-o", tmp_path / "mine", "--overwrite"]
    assert cli(*command) == 2
    assert f"this would replace {model}, which the command reads; give another folder" in capsys.readouterr().err
    assert (model / "model.safetensors").read_bytes() == before


def test_what_a_later_model_cannot_do_is_told_first(tmp_path, cli, whole_run, many_models, table, capsys):
    shorter = shutil.copytree(many_models, tmp_path / "shorter")
    config = json.loads((shorter / "tokenizer_config.json").read_text())
    (shorter / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 16}))
    command = ["downstream", whole_run, shorter, "--task", "classify", *table(["x", "y"]), "-o", tmp_path / "out"]
    assert cli(*command, "--max-length", "32") == 2
    assert "this model takes at most 16 tokens" in capsys.readouterr().err
    assert cli(*command, "--heads", "next:1 nowhere:1") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_load_is_refused_first(tmp_path, cli, whole_run, table, capsys):
    broken = shutil.copytree(whole_run / "model", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"")
    command = ["downstream", whole_run, broken, "--task", "classify", *table(["x", "y"]), "-o", tmp_path / "out"]
    assert cli(*command) == 2
    assert "broken" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_more_labels_than_can_be_read_are_not_drawn(tmp_path, cli, whole_run):
    labels = [f"label{number}" for number in range(101)]
    table = tmp_path / "table.tsv"
    table.write_text("text\tlabel\n" + "".join(f"{label}\t{label}\nthe {label}\t{label}\n" for label in labels))
    test = tmp_path / "test.tsv"
    test.write_text("text\tlabel\n" + "".join(f"a {label}\t{label}\n" for label in labels))
    fast = ["--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1", "-q"]
    out = tmp_path / "out"
    assert cli("finetune", whole_run, "--task", "classify", "--train", table, "--dev", test, "-o", out, *fast) == 0
    assert len(read(out)["per_class"]) == 101
    assert not [*out.glob("confusion.*")]


def test_a_run_is_not_overwritten(tmp_path, cli, whole_run, table, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    assert cli("finetune", run, "--task", "classify", *table(["x", "y"]), "-o", run, "--overwrite") == 2
    assert "holds a run; give another folder" in capsys.readouterr().err


def test_the_f1_of_mrpc_is_of_equivalents(tmp_path):
    for labels in (["not_equivalent", "equivalent"], ["-1", "1"], ["0", "1"], ["not_duplicate", "duplicate"]):
        rows = [f"a{n}\tb{n}\t{label}" for n, label in enumerate(reversed(labels * 3))]
        (tmp_path / "train.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
        assert [*read_examples(get_task("mrpc"), {"train": tmp_path / "train.tsv"}).labels] == labels


def test_columns_of_glues_own_files(tmp_path):
    (tmp_path / "mrpc.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\ta\tb\n0\t3\t4\tc\td\n")
    (tmp_path / "qqp.tsv").write_text("id\tquestion1\tquestion2\tis_duplicate\n1\ta\tb\t1\n2\tc\td\t0\n")
    for task in ("mrpc", "qqp"):
        file = tmp_path / f"{task}.tsv"
        train = read_examples(get_task(task), {"train": file, "dev": file}).splits["train"]
        assert [(example.texts, example.label) for example in train] == [(("a", "b"), 1), (("c", "d"), 0)]


def test_bad_input_is_refused(tmp_path, cli, whole_run, table, capsys):
    good = table(["x", "y"])
    (tmp_path / "one.tsv").write_text("text\na\n")
    (tmp_path / "hot.jsonl").write_text('{"text": "a", "labels": [1]}\n{"text": "b", "labels": [0]}\n')
    (tmp_path / "blank.tsv").write_text("text\tlabel\na\t \n")
    (tmp_path / "half.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "\\ud83d", "label": "x"}\n')
    out = ["-o", tmp_path / "out"]
    cases = {
        "--task 'glue'": [whole_run, "--task", "glue", *good],
        "--train missing": [whole_run, "--task", "classify", *good[2:]],
        "one column": [whole_run, "--task", "classify", *good[:2], "--dev", tmp_path / "one.tsv"],
        "no such folder": [tmp_path / "nowhere", "--task", "classify", *good],
        "at most 32 tokens": [whole_run, "--task", "classify", *good, "--max-length", "64"],
        "must lie between 0 and 1": [whole_run, "--task", "classify", *good, "--learning-rates", "2"],
        "--dropout": [whole_run, "--task", "classify", *good, "--dropout", "1"],
        "--max-length: 2 tokens leave no room": [whole_run, "--task", "classify", *good, "--max-length", "2"],
        "stay below 2**32": [whole_run, "--task", "classify", *good, "--seed", "4294967295", "--seeds", "2"],
        "--precision 'fp64' is unknown": [whole_run, "--task", "classify", *good, "--precision", "fp64"],
        "--epochs 0: must be at least 1": [whole_run, "--task", "classify", *good, "--epochs", "0"],
        "--learning-rates [0.001, 2.0]: must": [whole_run, "--task", "rte", *good, "--learning-rates", "1e-3", "2"],
        "--weight-decay nan: must be": [whole_run, "--task", "classify", *good, "--weight-decay", "nan"],
        "2: no label in column 'label'": [whole_run, "--task", "classify", *good[:2], "--dev", tmp_path / "blank.tsv"],
        f"--mismatched {good[1]}: only mnli": [whole_run, "--task", "rte", *good, "--mismatched", good[1]],
        "--dev and --test are the same file": [
            whole_run,
            "--task",
            "classify",
            *good[:2],
            "--dev",
            good[1],
            "--test",
            good[1],
        ],
        "or use --task classify": [whole_run, "--task", "multilabel", "--train", tmp_path / "hot.jsonl", *good[2:]],
        "--train missing: give the file to train on, or --data, a folder": [whole_run, "--task", "classify"],
        "2: a lone surrogate or invalid UTF-8": [
            whole_run,
            "--task",
            "classify",
            *good[:2],
            "--dev",
            tmp_path / "half.jsonl",
        ],
        "--columns word tag: ner needs": [whole_run, "--task", "ner", *good, "--columns", "word", "tag"],
    }
    for message, arguments in cases.items():
        capsys.readouterr()
        assert cli("finetune", *arguments, *out) == 2, message
        said = capsys.readouterr().err
        assert message in said, said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()


def test_mnli_is_scored_on_both_and_labels_that_are_none_left_out(tmp_path, cli, whole_run, many_models, capsys):
    chance = random.Random(0)
    names = ["contradiction", "entailment", "neutral"]
    files = {}
    for split, n in (("train", 48), ("dev", 24), ("test", 24), ("mismatched", 30)):
        rows = ["sentence1\tsentence2\tgold_label", "a\tb\t-"]
        labels = [*names, *(chance.choice(names) for _ in range(n - 3))]
        rows += [f"{'aeo'[names.index(label)]} {k}\t{words(chance)[0]}\t{label}" for k, label in enumerate(labels)]
        files[split] = tmp_path / f"{split}.tsv"
        files[split].write_text("\n".join([*rows, ""]))
    given = [argument for split, file in files.items() for argument in (f"--{split}", file)]
    out, fast = tmp_path / "out", ["--epochs", "1", "--seeds", "1", "--learning-rates", "5e-3"]
    assert cli("finetune", whole_run, "--task", "mnli", *given, "-o", out, *fast) == 0
    content = read(out)
    assert content["labels"] == names
    assert "1 of 31 rows of mismatched.tsv have no gold label: left out" in content["notes"]
    assert content["data"]["mismatched"]["examples"] == 30
    assert "accuracy, mismatched" in capsys.readouterr().out
    for split, score in (("test", content["scores"]), ("mismatched", content["mismatched_scores"])):
        rows = [line.split("\t")[2:] for line in (out / "predictions" / f"{split}-seed-1.tsv").read_text().splitlines()]
        gold, guess = zip(*rows[1:], strict=True)
        assert score["accuracy"]["mean"] == content["seeds"][0][split]["accuracy"] == accuracy_score(gold, guess)
        assert score["macro_f1"]["mean"] == pytest.approx(f1_score(gold, guess, average="macro"))
    assert set(content["baseline"]) >= {"test", "mismatched"}
    both = [
        "downstream",
        whole_run,
        many_models,
        "--task",
        "mnli",
        *given,
        *fast,
        "--no-baseline",
        "-o",
        tmp_path / "both",
    ]
    assert cli(*both) == 0
    (gap,) = json.loads((tmp_path / "both" / "downstream.json").read_text())["mismatched_differences"]
    means = [read(tmp_path / "both" / name)["mismatched_scores"]["accuracy"]["mean"] for name in ("run", "other")]
    assert (gap["second"], gap["first"]) == pytest.approx(tuple(means))
    assert "other against run, mismatched: " in capsys.readouterr().out


def test_the_positive_label_is_reported(tmp_path, cli, whole_run, table, capsys):
    files = table(["True", "False"], "sentence1\tsentence2\tlabel", pair=True, n=24)
    fast = ["--epochs", "1", "--seeds", "1", "--learning-rates", "5e-3", "--no-baseline"]
    for given, positive in (([], "True"), (["--positive-label", "false"], "False")):
        out = tmp_path / positive
        assert cli("finetune", whole_run, "--task", "qqp", *files, "-o", out, *fast, *given) == 0
        content = read(out)
        assert content["positive_label"] == positive
        assert f"f1 (of {positive})" in capsys.readouterr().out
        rows = [line.split("\t") for line in (out / "predictions" / "test-seed-1.tsv").read_text().splitlines()[1:]]
        expected = f1_score([row[2] for row in rows], [row[3] for row in rows], pos_label=positive, zero_division=0)
        assert content["scores"]["f1"]["mean"] == pytest.approx(expected)
    assert cli("finetune", whole_run, "--task", "qqp", *files, "-o", tmp_path / "no", "--positive-label", "up") == 2
    assert "--positive-label up: train.tsv has the labels False, True" in capsys.readouterr().err
