"""The commands that look: what they write, from a run and from a model, and what they refuse."""

from __future__ import annotations

import base64
import csv
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

from attention_guidance.analysis.maps import attention_maps
from attention_guidance.data.corpora import Document
from attention_guidance.data.reflexives import generate_reflexives
from attention_guidance.studies.models import longest_sequence, names_of
from attention_guidance.studies.report import _tiles
from attention_guidance.studies.sample import _drawn

CONLLU = "".join(
    f"1\t{word}\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\truns\t_\tVERB\t_\t_\t0\troot\t_\t_\n"
    "3\tfast\t_\tADV\t_\t_\t2\tadvmod\t_\tSpaceAfter=No\n4\t.\t_\tPUNCT\t_\t_\t2\tpunct\t_\t_\n\n"
    for word in ("abe", "ace", "add", "ado", "age", "aid", "ail", "aim", "ale", "all") * 3
)  # fmt: skip


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def many_checkpoints(tmp_path_factory, cli, arguments):
    """A run that kept six checkpoints."""
    folder = tmp_path_factory.mktemp("many") / "guided"
    more = ["--keep-checkpoints", "6", "--save-every", "10", "--eval-every", "10"]
    assert cli("pretrain", *arguments, *more, "-o", folder, "-q") == 0
    return folder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reflexives.txt"
    made = generate_reflexives(40, plural=False, relative_clauses=False, attractors=False)
    path.write_text("".join(sentence.line() + "\n" for sentence in made))
    return path


@pytest.fixture(scope="module")
def long_model(tmp_path_factory, whole_run):
    """A random model that takes longer sequences than the run's."""
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("long") / "model"
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model", model_max_length=200)
    tokenizer.save_pretrained(folder)
    RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=202,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def censused(tmp_path_factory, cli, many_checkpoints, corpus):
    folder = tmp_path_factory.mktemp("census")
    settings = ["--sequences", "12", "--block-size", "24", "--similarity-rows", "32", "--checkpoints"]
    assert cli("census", many_checkpoints, corpus, "-o", folder, *settings, "-q") == 0
    return folder


def test_census_over_checkpoints(censused, many_checkpoints):
    content = read(censused / "census.json")
    assert (content["kind"], content["schema_version"]) == ("census", 1)
    assert content["sample"] == {"sequences": 12, "tokens": 288, "block_size": 24, "seed": 1}
    assert content["patterns"] == ["next", "previous", "same", "first", "delimiter", "period"]
    assert [taken["step"] for taken in content["snapshots"]] == [10, 20, 30, 40, 50, 60]
    losses = [point["loss"] for point in read(many_checkpoints / "results.json")["curve"] if point["step"]]
    assert [taken["validation_loss"] for taken in content["snapshots"]] == pytest.approx(losses)
    guided = [head["guided_toward"] for head in content["snapshots"][-1]["heads"]]
    assert guided == ["next", None]
    assert np.array(content["similarity"]["divergence"]).shape == (2, 2)
    for name in ("heads", "entropy", "similarity", "development"):
        assert (censused / f"{name}.svg").read_text().startswith("<?xml")
        assert (censused / f"{name}.png").stat().st_size > 1000


def test_the_table_has_a_row_for_each_head_and_pattern(censused):
    with (censused / "census.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["layer", "head", "pattern", "mass", "argmax_share", "squared_error", "entropy"]
    assert len(rows) == 6 * 2 * 6
    last = read(censused / "census.json")["snapshots"][-1]["heads"][1]["patterns"]["first"]["mass"]
    (row,) = [row for row in rows if (row["step"], row["head"], row["pattern"]) == ("60", "1", "first")]
    assert float(row["mass"]) == last["value"]
    assert float(row["mass_low"]) < float(row["mass"]) < float(row["mass_high"])


def test_census_of_a_models_folder_is_that_of_its_maps(tmp_path, cli, whole_run, corpus):
    """All blocks of the text, against eager maps of the same blocks."""
    settings = ["--sequences", "10000", "--block-size", "16", "--patterns", "previous", "--similarity-rows", "0"]
    assert cli("census", whole_run / "model", corpus, "-o", tmp_path / "c", *settings, "-q") == 0
    content = read(tmp_path / "c" / "census.json")
    assert content["similarity"] is None
    from attention_guidance.data.blocks import pack

    model = AutoModel.from_pretrained(whole_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    blocks = pack(corpus.read_text().splitlines(), tokenizer, 16)
    assert content["sample"]["sequences"] == len(blocks)
    maps = torch.stack([attention_maps(model, torch.tensor(ids.astype(np.int64))) for ids in blocks.ids])
    expected = maps.diagonal(-1, -2, -1).mean((0, -1))
    for head in content["snapshots"][0]["heads"]:
        found = head["patterns"]["previous"]["mass"]["value"]
        assert found == pytest.approx(expected[head["layer"], head["head"]].item(), abs=1e-5)


def test_the_longest_sequence_is_what_a_model_takes(whole_run, long_model):
    from transformers import BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model", model_max_length=10_000)
    # RoBERTa counts positions from behind its padding: 202 of them for 200 tokens.
    assert longest_sequence(AutoModel.from_pretrained(long_model), tokenizer) == 200
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    assert longest_sequence(BertModel(BertConfig(**sizes, max_position_embeddings=100)), tokenizer) == 100
    assert longest_sequence(BertModel(BertConfig(**sizes, max_position_embeddings=900)), tokenizer) == 512
    tokenizer.model_max_length = 64
    assert longest_sequence(AutoModel.from_pretrained(long_model), tokenizer) == 64


def test_a_run_is_its_finished_model_and_padding_does_not_count(tmp_path, cli, whole_run):
    (tmp_path / "short.txt").write_text("abe ace.\n")
    assert cli("census", whole_run, tmp_path / "short.txt", "-o", tmp_path / "c", "--similarity-rows", 0, "-q") == 0
    content = read(tmp_path / "c" / "census.json")
    (taken,) = content["snapshots"]
    assert (taken["model"], taken["step"], taken["validation_loss"]) == ("run", None, None)
    n_tokens = content["sample"]["tokens"]
    assert n_tokens < content["sample"]["block_size"]
    assert taken["rows"] == {
        "next": n_tokens - 1, "previous": n_tokens - 1, "same": n_tokens, "first": n_tokens, "delimiter": n_tokens,
        "period": n_tokens,
    }  # fmt: skip


def test_every_document_is_as_likely_to_be_drawn():
    documents = [Document(str(n), "") for n in range(12)]
    drawn = Counter(d.text for seed in range(3000) for d in _drawn(documents, 4, random.Random(seed)))
    # Each is in a third of the draws: 1,000 give or take 26.
    assert all(abs(drawn[str(n)] - 1000) < 110 for n in range(12))
    assert [d.text for d in _drawn(documents, 12, random.Random(0))] == [str(n) for n in range(12)]


def test_the_sample_is_seeded(tmp_path, cli, whole_run, corpus):
    common = ["--sequences", "5", "--block-size", "16", "--similarity-rows", "0", "-q"]
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli("census", whole_run, corpus, "-o", tmp_path / name, "--seed", seed, *common) == 0
        found.append(read(tmp_path / name / "census.json")["snapshots"])
    assert found[0] == found[1] != found[2]


def test_probe_of_dependencies(tmp_path, cli, whole_run, capsys):
    (tmp_path / "a.conllu").write_text(CONLLU)
    assert cli("probe", whole_run, tmp_path / "a.conllu", "--task", "dependency", "-o", tmp_path / "p") == 0
    said = capsys.readouterr().out
    assert "90 questions in 30 texts" in said
    content = read(tmp_path / "p" / "probe.json")
    assert content["counts"] == {"texts": 30, "questions": 90, "skipped_texts": {}}
    assert [label["label"] for label in content["labels"]] == ["all", "advmod", "nsubj", "punct"]
    by_label = {label["label"]: label["baseline"] for label in content["labels"]}
    assert (by_label["advmod"]["name"], by_label["advmod"]["value"]) == ("offset:-1", 1.0)
    assert np.array(content["accuracy"]["forward"]).shape == (1, 2)
    assert content["max"] == pytest.approx(max(max(map(max, grid)) for grid in content["accuracy"].values()))
    with (tmp_path / "p" / "probe.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * 2 * 2
    assert (tmp_path / "p" / "labels.svg").exists()


def test_probe_with_distractors_of_ones_own(tmp_path, cli, long_model, sentences):
    (tmp_path / "front.txt").write_text("so it is ,\n")
    common = [long_model, sentences, "--task", "reflexive", "-q"]
    assert cli("probe", *common, "-o", tmp_path / "plain") == 0
    assert cli("probe", *common, "-o", tmp_path / "built-in", "--distractors") == 0
    assert cli("probe", *common, "-o", tmp_path / "own", "--distractors", tmp_path / "front.txt") == 0
    plain, built_in, own = (read(tmp_path / name / "probe.json") for name in ("plain", "built-in", "own"))
    assert [c["distractors"] for c in (plain, built_in, own)] == [False, True, "front.txt"]
    assert plain["baselines"]["chance"] == pytest.approx(2 / 4)
    assert own["baselines"]["chance"] == pytest.approx(2 / 8)
    assert plain["directions"] == ["forward"]


def test_skill_over_checkpoints(tmp_path, cli, many_checkpoints, sentences):
    other = tmp_path / "other" / "guided"
    shutil.copytree(many_checkpoints, other)
    arguments = ["--data", sentences, "--task", "reflexive", "-o", tmp_path / "s", "-q"]
    assert cli("skill", many_checkpoints, other, *arguments) == 0
    content = read(tmp_path / "s" / "skill.json")
    assert len(content["points"]) == 12
    assert len(content["runs"]) == len(set(content["runs"])) == 2
    first = content["points"][0]
    assert 0 <= first["mean"] <= first["max"] <= 1
    assert {(c["run"], c["measure"]) for c in content["correlations"]} == {
        (run, measure) for run in (None, *content["runs"]) for measure in ("max", "mean")
    }
    overall = next(c for c in content["correlations"] if (c["run"], c["measure"]) == (None, "mean"))
    columns = [[point[key] for point in content["points"]] for key in ("loss", "mean")]
    assert overall["spearman"] == pytest.approx(spearmanr(*columns).statistic)
    assert (tmp_path / "s" / "skill.png").exists()


def test_reflexives(tmp_path, cli):
    assert cli("reflexives", "-o", tmp_path / "r", "--sentences", 30, "--no-attractors", "-q") == 0
    assert len((tmp_path / "r" / "reflexives.txt").read_text().splitlines()) == 30
    content = read(tmp_path / "r" / "reflexives.json")
    assert (content["kind"], content["sentences"], content["attractors"]) == ("reflexives", 30, False)


def test_report(tmp_path, cli, many_checkpoints, whole_run, corpus, sentences):
    assert cli("probe", whole_run, sentences, "--task", "reflexive", "-o", tmp_path / "p", "-q") == 0
    arguments = ["--sequences", "8", "--include", tmp_path / "p", "--sentence", "abe </script> runs.", "-q"]
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
    for name in (
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


@pytest.fixture
def refusal(cli, capsys):
    def run(*arguments):
        capsys.readouterr()
        assert cli(*arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return run


@pytest.mark.parametrize(
    ("line", "other", "said"),
    [
        ("objective: mlm", "objective: mim", "learnt from images, and report looks at text only"),
        (
            "dataset: null",
            "dataset: somebody/news",
            "learnt from the data set somebody/news; give some text with --text",
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


def test_nothing_is_overwritten_unless_asked(tmp_path, cli, refusal, whole_run, corpus):
    arguments = [whole_run, corpus, "-o", tmp_path / "c", "--sequences", 2, "--similarity-rows", 0, "-q"]
    assert cli("census", *arguments) == 0
    before = (tmp_path / "c" / "census.json").read_bytes()
    assert "is not empty" in refusal("census", *arguments)
    assert (tmp_path / "c" / "census.json").read_bytes() == before
    assert cli("census", *arguments, "--overwrite") == 0


def test_what_is_refused(tmp_path, refusal, whole_run, many_checkpoints, corpus, sentences):
    out = ["-o", tmp_path / "out"]
    reflexive = ["--task", "reflexive"]
    cases = {
        "no such folder": ["census", tmp_path / "nowhere", *out],
        "neither a model": ["census", tmp_path, *out],
        "has no checkpoints": ["census", whole_run / "model", *out, "--checkpoints"],
        "must lie between 0 and 1": ["census", whole_run, *out, "--threshold", "1.5"],
        "at most 32 tokens": ["census", whole_run, corpus, *out, "--block-size", "64"],
        "unknown pattern 'nxt'": ["census", whole_run, corpus, *out, "--patterns", "nxt"],
        "--task 'reflex'": ["probe", whole_run, sentences, *out, "--task", "reflex"],
        "--protocol 'word'": ["probe", whole_run, sentences, *out, *reflexive, "--protocol", "word"],
        "is for --task reflexive": ["probe", whole_run, sentences, *out, "--task", "gap", "--distractors"],
        "cannot be read": ["probe", whole_run, tmp_path / "none.txt", *out, *reflexive],
        "fields separated by tabs": ["probe", whole_run, corpus, *out, *reflexive],
        "10, separated by tabs": ["probe", whole_run, corpus, *out, "--task", "dependency"],
        "no column ID": ["probe", whole_run, corpus, *out, "--task", "gap"],
        "#begin document": ["probe", whole_run, corpus, *out, "--task", "coreference"],
        "given twice": ["skill", whole_run, whole_run, *out, "--data", sentences, *reflexive],
        "2 checkpoints of known validation loss": ["skill", whole_run, *out, "--data", sentences, *reflexive],
        "no result of probe": ["report", whole_run, *out, "--include", corpus.parent],
        "the grammar makes": ["reflexives", *out, "--sentences", 10**9],
    }
    for message, arguments in cases.items():
        assert message in refusal(*arguments), message
        assert not (tmp_path / "out").exists(), message


def test_files_of_others_are_not_overwritten(tmp_path, refusal, whole_run, corpus):
    (tmp_path / "census.csv").write_text("mine")
    assert "is not empty" in refusal("census", whole_run, corpus, "-o", tmp_path)
    assert (tmp_path / "census.csv").read_text() == "mine"


def test_runs_of_one_name_are_told_apart(tmp_path, cli, refusal, many_checkpoints, sentences):
    runs = [tmp_path / "c" / place / "b" / "run" for place in ("a", "z")]
    for run in runs:
        shutil.copytree(many_checkpoints, run)
    assert names_of([str(run) for run in runs]) == ["a-b-run", "z-b-run"]
    assert "given twice" in refusal("report", runs[0], runs[0], "-o", tmp_path / "r")
    broken = json.loads((runs[0] / "checkpoints" / "checkpoint-60" / "trainer_state.json").read_text())
    for entry in broken["log_history"]:
        if "eval_loss" in entry:
            entry["eval_loss"] = float("nan")
    (runs[0] / "checkpoints" / "checkpoint-60" / "trainer_state.json").write_text(json.dumps(broken))
    (runs[1] / "checkpoints" / "checkpoint-60" / "trainer_state.json").write_text("[1]")
    arguments = ["--data", sentences, "--task", "reflexive", "-o", tmp_path / "s", "-q"]
    assert cli("skill", *runs, *arguments) == 0
    content = read(tmp_path / "s" / "skill.json")
    assert (content["checkpoints_without_loss"], len(content["points"])) == (2, 10)
    assert content["correlations"][0]["spearman"] is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"task": "/../../../ESCAPED"}, "unknown task"),
        ({"schema_version": 2}, "schema_version 2"),
        ({"labels": None}, "no labels"),
    ],
)
def test_results_that_the_page_cannot_show(tmp_path, cli, refusal, whole_run, sentences, content, message):
    assert cli("probe", whole_run, sentences, "--task", "reflexive", "-o", tmp_path / "p", "-q") == 0
    found = read(tmp_path / "p" / "probe.json") | content
    (tmp_path / "p" / "probe.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    (tmp_path / "p" / "broken.json").write_text("{")
    assert message in refusal("report", whole_run, "-o", tmp_path / "r", "--include", tmp_path / "p")


def test_models_that_do_not_fit_their_tokenizer_or_are_not_finite(tmp_path, refusal, long_model, corpus, sentences):
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    models = {
        "small": BertModel(BertConfig(**sizes, vocab_size=20)),
        "vit": ViTModel(ViTConfig(**sizes)),
        "nan": AutoModel.from_pretrained(long_model),
    }
    with torch.no_grad():
        models["nan"].encoder.layer[0].attention.self.query.weight.fill_(float("nan"))
    for name, message in (("small", "knows 20 tokens"), ("vit", "reads no tokens"), ("nan", "not finite")):
        models[name].save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(long_model).save_pretrained(tmp_path / name)
        probe = ["probe", tmp_path / name, sentences, "--task", "reflexive", "-o", tmp_path / "out"]
        assert message in refusal(*probe), name
        assert message in refusal("census", tmp_path / name, corpus, "-o", tmp_path / "out"), name
    assert "whole number" in refusal(*probe, "--seed", "-1")


def test_a_comparisons_folder_names_its_runs(tmp_path, refusal, whole_run):
    shutil.copytree(whole_run, tmp_path / "compare" / "seed-1" / "guided")
    assert "name one of its runs" in refusal("census", tmp_path / "compare", "-o", tmp_path / "out")


def test_a_model_without_maps_to_see(tmp_path, refusal, whole_run, corpus):
    from transformers import DebertaV2Config, DebertaV2Model

    model = DebertaV2Model(
        DebertaV2Config(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    model.save_pretrained(tmp_path / "deberta")
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(tmp_path / "deberta")
    said = refusal("census", tmp_path / "deberta", corpus, "-o", tmp_path / "out")
    assert "attention interface" in said
