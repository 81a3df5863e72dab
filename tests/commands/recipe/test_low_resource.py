"""The recipe from a text to its page: what is cleaned, trained, scored, written, resumed and refused."""

from __future__ import annotations

import json
import random
import re
import shutil

import pytest
from small_runs import one_line

from attention_guidance.commands.recipe.clean import clean
from attention_guidance.commands.recipe.plan import require_enough
from attention_guidance.commands.recipe.tasks import split_table
from attention_guidance.commands.report.recipe_page import write_recipe_page
from attention_guidance.commands.text.corpora import Document

QUICK = ["--preset", "tiny", "--max-steps", "6", "--seeds", "2", "-q"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A text in which test sentences and repetitions stand, entities, and a table of classes."""
    folder = tmp_path_factory.mktemp("given")
    chance = random.Random(0)

    def sentence():
        words = []
        for _ in range(chance.randint(5, 9)):
            kind = chance.choice(["PER", None, None])
            words.append((f"Aa{chance.choice('bcd')}", f"B-{kind}") if kind else (chance.choice(WORDS), "O"))
        return words

    (folder / "ner").mkdir()
    for split, n in (("train", 60), ("dev", 12), ("test", 12)):
        sentences = [sentence() for _ in range(n)]
        rows = ("\n".join(f"{word} {tag}" for word, tag in words) for words in sentences)
        (folder / "ner" / f"{split}.txt").write_text("\n\n".join(rows) + "\n")
    leaked = [" ".join(word for word, _ in words) for words in sentences[:3]]
    lines = [" ".join(chance.choices(WORDS, k=12)) + "." for _ in range(1500)]
    (folder / "text.txt").write_text("\n".join([*lines, *lines[:40], *leaked]))
    rows = [
        f"{chance.choice(WORDS)} {label} {chance.random()}\t{label}" for label in ("good", "bad") for _ in range(40)
    ]
    (folder / "classes.tsv").write_text("\n".join(["text\tlabel", *rows]))
    return folder


WORDS = ["".join(random.Random(n).choices("abcdefgh", k=4)) for n in range(60)]


@pytest.fixture(scope="module")
def done(given, tmp_path_factory, cli):
    """A finished recipe with both tasks, guided and unguided."""
    out = tmp_path_factory.mktemp("recipe") / "out"
    tasks = ["--ner", given / "ner", "--classify", given / "classes.tsv", "--compare"]
    assert cli("recipe", "low-resource", given / "text.txt", *tasks, *QUICK, "-o", out) == 0
    return out


def test_what_is_found(done, given):
    content = json.loads((done / "recipe.json").read_text())
    text = content["text"]
    assert (text["documents"], text["repeated"], text["held_out_lines"], text["held_out_found"]) == (1500, 40, 3, 3)
    pre_trained_on = [json.loads(line)["text"] for line in (done / "text.jsonl").read_text().splitlines()]
    assert pre_trained_on == (given / "text.txt").read_text().splitlines()[:1500]
    assert {choice["name"]: choice["value"] for choice in content["choices"]}["max_steps"] == 6
    assert next(choice["why"] for choice in content["choices"] if choice["name"] == "preset") == "as you asked"
    assert set(content["runs"]) == {"guided", "unguided"}
    for name, metric in (("ner", "f1"), ("classify", "accuracy")):
        task = content["tasks"][name]
        assert task["split"] == "test"
        assert task["baseline"]["test"][metric] >= 0.9
        assert task["difference"]["model"] == "guided"
        over = task["over_baseline"]
        assert over["first"] == pytest.approx(task["scores"][metric]["mean"])
        assert over["second"] == pytest.approx(task["baseline"]["test"][metric])
        assert over["low"] <= over["value"] <= over["high"]
        assert task["combined_difference"]["minus"] == "unguided"
        assert (done / task["folder"] / "model" / "config.json").is_file()
    data = content["tasks"]["classify"]["data"]
    assert [data[split]["examples"] for split in ("train", "dev", "test")] == [58, 6, 16]


def test_the_page_tells_it(done):
    page = (done / "recipe.html").read_text()
    content = json.loads((done / "recipe.json").read_text())
    for task in content["tasks"].values():
        mean = 100 * task["scores"][task["metric"]]["mean"]
        assert f"<td>{mean:.1f}</td>" in page
        both = 100 * task["combined"]["scores"][task["metric"]]["mean"]
        assert f'<th scope="row">both combined</th><td>{both:.1f}</td>' in page
        assert f"attention-guidance predict {task['folder']} texts.txt" in page
    assert "3 of 27 sentences" not in page  # counted, not copied from elsewhere
    assert f"3 of {content['text']['held_out']} sentences of dev and test were in the text" in page
    assert page.count("<svg") == 4  # two of the curves, a confusion for each task
    assert "<?xml" not in page
    assert not re.search(r"(src|href)=\"http", page)


def test_a_finished_recipe_goes_on_to_the_same(done, given, cli, capsys, tmp_path):
    before = {path: path.read_bytes() for path in done.rglob("finetune.json")}
    assert len(before) == 4
    tasks = ["--ner", given / "ner", "--classify", given / "classes.tsv", "--compare"]
    assert cli("recipe", "low-resource", given / "text.txt", *tasks, *QUICK, "-o", done, "--resume") == 0
    assert {path: path.read_bytes() for path in done.rglob("finetune.json")} == before
    assert cli("recipe", "low-resource", given / "text.txt", *tasks, *QUICK, "-o", done) == 2
    assert "holds a recipe already; continue it with --resume, replace it with --overwrite" in capsys.readouterr().err
    for lost, fewer in (("--compare", tasks[:4]), ("--classify", [*tasks[:2], "--compare"])):
        assert cli("recipe", "low-resource", given / "text.txt", *fewer, *QUICK, "-o", done, "--resume") == 2
        assert f"holds results of {lost}, which would be lost" in capsys.readouterr().err
    shorter = tmp_path / "shorter.txt"
    shorter.write_text("\n".join((given / "text.txt").read_text().splitlines()[:1400]))
    assert cli("recipe", "low-resource", shorter, *tasks, *QUICK, "-o", done, "--resume") == 2
    assert "holds a recipe with another text or other tasks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "verdict", "said"),
    [
        (-0.2, "worse", "finding names is 20.0 points worse than without pre-training"),
        (0.02, "no difference shown", "finding names shows no difference from a model without pre-training"),
        (
            -0.4,
            "not known from one training",
            "finding names is 40.0 points worse than without pre-training, in a single fine-tuning",
        ),
    ],
)
def test_the_headline_tells_what_is_shown(done, tmp_path, value, verdict, said):
    content = json.loads((done / "recipe.json").read_text())
    task = content["tasks"]["ner"]
    task["combined"]["over_baseline"] |= {"value": value, "verdict": verdict}
    content["tasks"] = {"ner": task}
    (tmp_path / "ner").symlink_to(done / "ner")
    write_recipe_page(content, tmp_path / "recipe.html")
    assert f"{said}</h1>" in (tmp_path / "recipe.html").read_text()


def test_one_long_document_is_enough():
    _, facts = clean([Document("\n".join(f"Line {n} of a text." for n in range(2000)), "text.txt")])
    require_enough("text.txt", facts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some words\n" * 3000, "10 bytes after removing duplicates, too little to train on; the minimum is 20,000"),
        (
            "some words\nand others\n",
            "20 bytes after removing duplicates, too little to train on; the minimum is",
        ),
    ],
)
def test_too_little_text_is_refused_before_anything_is_written(tmp_path, cli, capsys, text, message):
    (tmp_path / "text.txt").write_text(text)
    command = ["recipe", "low-resource", tmp_path / "text.txt", "--documents", "line", *QUICK]
    assert cli(*command, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ner", "nowhere"], "no such folder"),
        (["--classify", "nowhere.tsv"], "nowhere.tsv"),
        (["nothing.txt"], "nothing.txt"),
        (["--max-steps", "0"], "integer of at least 1"),
        (["--preset", "huge"], "unknown preset"),
        (["--heads", "sideways:1"], "sideways"),
        (["--heads", ""], "needs heads to guide"),
    ],
)
def test_what_is_refused(tmp_path, given, cli, capsys, arguments, message):
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", given / "text.txt", *QUICK, *arguments, "-o", out) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_task_without_a_test_file(tmp_path, given, cli, capsys):
    folder = tmp_path / "ner"
    folder.mkdir()
    (folder / "train.txt").write_text((given / "ner" / "train.txt").read_text())
    assert cli("recipe", "low-resource", given / "text.txt", "--ner", folder, *QUICK, "-o", tmp_path / "out") == 2
    assert "the folder has no file called test" in capsys.readouterr().err


def test_a_label_that_is_rare_is_trained_on(tmp_path, given, cli, capsys):
    """Whichever row it stands in, as a fifth of them becomes the test."""
    rows = (given / "classes.tsv").read_text().splitlines()
    table, folder = tmp_path / "classes.tsv", tmp_path / "aside"
    for place in range(1, 20):
        table.write_text("\n".join([*rows[:place], "rare words\tugly", *rows[place:20], *rows[60:]]))
        folder.mkdir(exist_ok=True)
        files = split_table(table, folder)
        labels = {
            split: [json.loads(line)["label"] for line in file.read_text().splitlines()]
            for split, file in files.items()
        }
        assert labels["train"].count("ugly") == 1
        assert labels["test"]
    table.write_text("text\tlabel\na\tx\nb\ty\n")
    command = ["recipe", "low-resource", given / "text.txt", "--classify", table, *QUICK, "-o", tmp_path / "out"]
    assert cli(*command) == 2
    assert f"error: {table}: too few texts of each label" in capsys.readouterr().err


def test_without_tasks_there_is_a_model_and_a_page(tmp_path, given, cli):
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", given / "text.txt", *QUICK, "-o", out) == 0
    assert (out / "guided" / "model" / "config.json").is_file()
    assert "A model of" in (out / "recipe.html").read_text()
    first = (out / "guided" / "results.json").read_bytes()
    assert cli("recipe", "low-resource", given / "text.txt", *QUICK, "-o", out, "--overwrite", "--seed", "2") == 0
    assert (out / "guided" / "results.json").read_bytes() != first


def test_a_text_of_test_sentences_alone(tmp_path, given, cli, capsys):
    sentences = (given / "ner" / "test.txt").read_text().split("\n\n")
    lines = [" ".join(row.split()[0] for row in sentence.splitlines()) for sentence in sentences]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", tmp_path / "text.txt", "--ner", given / "ner", *QUICK, "-o", out) == 2
    assert "no text remains after removing the 12 sentences" in capsys.readouterr().err
    assert not out.exists()


def test_what_is_not_there_is_not_resumed(tmp_path, given, cli, capsys):
    """No recipe on the Bible in a mistyped folder."""
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", "--ner", given / "ner", *QUICK, "-o", out, "--resume") == 2
    assert f"--output {out} holds no recipe to resume; give the recipe's text and settings" in capsys.readouterr().err
    assert not out.exists()


def test_it_starts_from_a_model_with_a_tokenizer_of_this_text(tmp_path, given, whole_run, cli, capsys):
    out = tmp_path / "out"
    quick = [*QUICK[2:], "--init-from", whole_run, "--heads", "next:1"]
    assert cli("recipe", "low-resource", given / "text.txt", *quick, "-o", out) == 0, capsys.readouterr().err
    content, run = (json.loads((out / name).read_text()) for name in ("recipe.json", "guided/results.json"))
    choices = {choice["name"]: choice["value"] for choice in content["choices"]}
    assert choices["new_tokenizer"] is True
    assert choices["init_from"] == str(whole_run)
    assert "preset" not in choices
    assert (content["runs"]["guided"]["model"]["hidden"], run["config"]["max_steps"]) == (32, 6)
    assert run["model"]["vocabulary"] != 280
    assert run["new_tokens"]["shared"] > 0.1
    assert cli("recipe", "low-resource", given / "text.txt", *quick, "--keep-tokenizer", "-o", tmp_path / "kept") == 0
    run = json.loads((tmp_path / "kept" / "guided" / "results.json").read_text())
    assert (run["model"]["vocabulary"], run["new_tokens"]) == (280, None)


@pytest.mark.parametrize("more", [[], ["--keep-tokenizer"]])
def test_a_start_whose_tokenizer_cannot_be_read(tmp_path, given, whole_run, cli, capsys, more):
    bare = tmp_path / "bare"
    shutil.copytree(whole_run / "model", bare)
    (bare / "tokenizer.json").write_text("{")
    command = [
        "recipe",
        "low-resource",
        given / "text.txt",
        *QUICK[2:],
        "--init-from",
        bare,
        "--heads",
        "next:1",
        *more,
    ]
    assert cli(*command, "-o", tmp_path / "out") == 2
    assert f"--init-from '{bare}': the model's tokenizer cannot be used: " in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--init-from", "./nowhere"], "no such folder"),
        (["--keep-tokenizer"], "--keep-tokenizer needs --init-from MODEL"),
        (
            ["--init-from", "./nowhere", "--keep-tokenizer", "--vocab-size", "300"],
            "--vocab-size is for training a tokenizer; leave it out, or leave out --keep-tokenizer",
        ),
    ],
)
def test_starts_that_are_refused(tmp_path, given, cli, capsys, more, said):
    assert cli("recipe", "low-resource", given / "text.txt", *QUICK, *more, "-o", tmp_path / "out") == 2
    assert said in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.tsv", "train.txt"])
def test_texts_are_not_taken_for_words(tmp_path, given, cli, capsys, name):
    """Nor a table of texts and labels for entities, as which it would be one sentence of long words."""
    folder = tmp_path / "ner"
    folder.mkdir()
    for split in ("train", "dev", "test"):
        shutil.copy(given / "classes.tsv", folder / name.replace("train", split))
    assert cli("recipe", "low-resource", given / "text.txt", "--ner", folder, *QUICK, "-o", tmp_path / "out") == 2
    said = one_line(capsys.readouterr().err)
    assert f"{folder / name}:1: the first column has texts, not words" in said
    assert "for labels of texts, the task is classify" in said
    assert not (tmp_path / "out").exists()


def test_words_are_not_taken_for_texts(tmp_path, given, cli, capsys):
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", given / "text.txt", "--classify", given / "ner", *QUICK, "-o", out) == 2
    said = one_line(capsys.readouterr().err)
    assert f"{given / 'ner' / 'train.txt'}: one column" in said
    assert "expected at least a text and a label" in said
    assert not out.exists()


def test_numbers_are_not_taken_for_labels(tmp_path, given, cli, capsys):
    table = tmp_path / "scores.tsv"
    table.write_text("text\tlabel\n" + "".join(f"words number {n}\t{max(1, n) / 60:.4f}\n" for n in range(60)))
    out = tmp_path / "out"
    assert cli("recipe", "low-resource", given / "text.txt", "--classify", table, *QUICK, "-o", out) == 2
    assert f"error: {table}: too few texts of each label to hold out" in one_line(capsys.readouterr().err)
    assert not out.exists()
