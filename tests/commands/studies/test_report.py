"""`report`: its page and figures, and what it cannot show."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil

import numpy as np
import pytest
from looked_at import read
from transformers import AutoTokenizer

from attention_guidance.commands.studies.report import _tiles


def test_report(tmp_path, cli, many_checkpoints, whole_run, corpus, sentences, pairs):
    assert cli("probe", whole_run, sentences, "--task", "reflexive", "-o", tmp_path / "p", "-q") == 0
    scored = ["probe", many_checkpoints, pairs, "--task", "minimal-pairs", "--checkpoints", "-o", tmp_path / "m", "-q"]
    assert cli(*scored) == 0
    included = ["--include", tmp_path / "p", tmp_path / "m"]
    arguments = ["--sequences", "8", *included, "--sentence", "abe </script> runs.", "-q"]
    assert cli("report", many_checkpoints, whole_run, "-o", tmp_path / "r", *arguments) == 0
    content = read(tmp_path / "r" / "report.json")
    assert [run["name"] for run in content["runs"]] == ["guided", "run"]
    assert [len(run["census"]["snapshots"]) for run in content["runs"]] == [6, 2]
    assert content["runs"][0]["attention"][0]["text"] == "abe </script> runs."
    # A byte a weight: every row of every map sums to 255, up to its rounding.
    sentence = content["runs"][0]["attention"][0]
    n = len(sentence["tokens"])
    rows = np.frombuffer(base64.b64decode(sentence["maps"]), np.uint8).reshape(1, 2, n, n).sum(-1)
    assert np.abs(rows.astype(int) - 255).max() <= n / 2
    page = (tmp_path / "r" / "report.html").read_text()
    assert page.count("</script>") == 2
    assert len(content["probes"]) == 1
    (scores,) = content["pairs"]
    assert scores == {**read(tmp_path / "m" / "minimal_pairs.json")}
    assert [taken["step"] for taken in scores["snapshots"]] == [10, 20, 30, 40, 50, 60]
    with (tmp_path / "r" / "data" / "pairs-1.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "all"]
    assert [float(row["accuracy"]) for row in rows] == [one["accuracy"]["value"] for one in scores["snapshots"]]
    assert f"9 pairs in 2 paradigms: {scores['snapshots'][-1]['accuracy']['value']:.3f}" in page
    for name in (
        "figures/pairs-1-minimal_pairs.svg", "figures/pairs-1-steps.png",
        "figures/validation.svg", "figures/guided-heads.png", "data/guided-census.csv", "data/run-curves.csv",
        "data/guided-similarity.csv", "data/probe-1-reflexive.csv",
    ):  # fmt: skip
        assert (tmp_path / "r" / name).exists(), name


def test_tiles_tell_how_many_guided_heads_follow_their_own_pattern():
    heads = [
        {"follows": follows, "guided_toward": toward}
        for follows, toward in (("next", "next"), ("first", "next"), (None, "first"), ("first", None), (None, None))
    ]
    record = {"name": "x", "final_loss": 5.123, "census": {"snapshots": [{"heads": heads}]}}
    loss, followed = _tiles([record])
    assert loss["value"] == "5.12"
    assert (followed["value"], followed["text"]) == (
        "3/5", "heads of x follow a pattern; of 3 guided ones 1 follow theirs.",
    )  # fmt: skip


def test_report_of_a_model_that_is_no_run(tmp_path, cli, whole_run, corpus):
    assert cli("report", whole_run / "model", "-o", tmp_path / "r", "--text", corpus, "--sequences", 4, "-q") == 0
    content = read(tmp_path / "r" / "report.json")
    assert (content["runs"][0]["name"], content["has_slider"]) == ("run", False)


@pytest.mark.parametrize(
    ("line", "other", "said"),
    [
        ("objective: mlm", "objective: mim", "was trained on images, but report supports only text"),
        (
            "dataset: null",
            "dataset: somebody/news",
            "was trained on the data set somebody/news; give a text with --text",
        ),
    ],
)
def test_report_of_a_run_without_files_of_text(tmp_path, refusal, whole_run, line, other, said):
    run = shutil.copytree(whole_run, tmp_path / "run")
    settings = (run / "run.yaml").read_text()
    assert line in settings
    settings = re.sub(r"^corpus:\n(- .*\n)+", "corpus: []\n", settings, flags=re.MULTILINE)
    (run / "run.yaml").write_text(settings.replace(line, other))
    assert said in refusal("report", run, "-o", tmp_path / "r", "-q")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "/../../../ESCAPED"}, "probe.json: task must be 'reflexive' or"),
        ({"schema_version": 2}, "probe.json: schema_version must be 1; "),
        ({"labels": None}, "probe.json: the content must have labels; "),
    ],
)
def test_results_that_the_page_cannot_show(tmp_path, cli, refusal, whole_run, sentences, content, message):
    assert cli("probe", whole_run, sentences, "--task", "reflexive", "-o", tmp_path / "p", "-q") == 0
    found = read(tmp_path / "p" / "probe.json") | content
    (tmp_path / "p" / "probe.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    (tmp_path / "p" / "broken.json").write_text("{")
    assert message in refusal("report", whole_run, "-o", tmp_path / "r", "--include", tmp_path / "p")


@pytest.mark.parametrize("sentence", ["naïve", "Ġorġ你"])
def test_the_tokens_of_a_sentence_are_its_text(tmp_path, cli, whole_run, corpus, sentence):
    arguments = ["--text", corpus, "--sequences", 2, "--sentence", sentence, "-q"]
    assert cli("report", whole_run / "model", "-o", tmp_path / "r", *arguments) == 0
    tokens = read(tmp_path / "r" / "report.json")["runs"][0]["attention"][0]["tokens"]
    shown = "".join(tokens[1:-1])
    assert shown == "".join(c if c.isascii() else repr(c.encode())[2:-1] for c in sentence)


def test_a_sentence_that_is_not_utf8(tmp_path, refusal, whole_run, corpus):
    """The shell passes bytes that are not UTF-8 on as lone surrogates."""
    said = refusal("report", whole_run, "--text", corpus, "-o", tmp_path / "out", "--sentence", "abe \udcff")
    assert "--sentence 'abe \\udcff': character 5 of the text is not valid Unicode" in said
    said = refusal("report", whole_run, "--text", corpus, "-o", tmp_path / "out", "--sentence", " ")
    assert "--sentence ' ': give a sentence with at least one word" in said
    assert not (tmp_path / "out").exists()


def test_all_of_a_sentence_is_shown(tmp_path, cli, long_model, corpus, capsys):
    """As many tokens as the model takes; what it does not take is said."""
    tokenizer = AutoTokenizer.from_pretrained(long_model)
    sentences = [" ".join(["abe", "ace"] * 20), "abe", " ".join(["abe"] * 150 + ["ace"] * 150)]
    counts = [len(tokenizer(sentence)["input_ids"]) for sentence in sentences]
    assert counts[0] > 24
    assert counts[2] > 200
    given = [part for sentence in sentences for part in ("--sentence", sentence)]
    assert cli("report", long_model, "-o", tmp_path / "r", "--text", corpus, "--sequences", 2, *given) == 0
    said = " ".join(capsys.readouterr().out.split())
    content = read(tmp_path / "r" / "report.json")
    shown = content["runs"][0]["attention"]
    assert [len(one["tokens"]) for one in shown] == [counts[0], counts[1], 200]
    assert [one["left_out"] for one in shown] == [0, 0, counts[2] - 200]
    assert "".join(shown[0]["tokens"][1:-1]) == sentences[0]
    assert f": maps of the first 200 tokens of '{sentences[2][:40]}'; the last {counts[2] - 200} are left out" in said
    assert content["own_sentences"] is True


def test_sentences_of_the_text_are_shown_as_they_begin(tmp_path, cli, long_model):
    """To the end of a word, and no more than what is shown is called the sentence."""
    first, second = " ".join(["abe", "ace"] * 60), "add age."
    (tmp_path / "text.txt").write_text(f"{first}\n\n{second}\n")
    text = ["--text", tmp_path / "text.txt", "--documents", "blank"]
    assert cli("report", long_model, "-o", tmp_path / "r", *text, "--sequences", 2, "-q") == 0
    content = read(tmp_path / "r" / "report.json")
    shown = content["runs"][0]["attention"]
    assert [one["text"] for one in shown] == [first[:159], second]
    assert ["".join(one["tokens"][1:-1]) for one in shown] == [first[:159], second]
    assert all(one["left_out"] == 0 for one in shown)
    assert content["own_sentences"] is False
    page = (tmp_path / "r" / "report.html").read_text()
    assert "The sentences are the beginnings of the first documents of the text." in page
