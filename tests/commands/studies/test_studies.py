"""The commands that look: what they write, from a run and from a model."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from looked_at import read
from scipy.stats import spearmanr
from transformers import AutoModel, AutoTokenizer

from attention_guidance.analysis.maps import attention_maps
from attention_guidance.commands.studies import models
from attention_guidance.commands.studies.models import longest_sequence, names_of
from attention_guidance.commands.studies.sample import _sampled
from attention_guidance.commands.text.corpora import Document

CONLLU = "".join(
    f"1\t{word}\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\truns\t_\tVERB\t_\t_\t0\troot\t_\t_\n"
    "3\tfast\t_\tADV\t_\t_\t2\tadvmod\t_\tSpaceAfter=No\n4\t.\t_\tPUNCT\t_\t_\t2\tpunct\t_\t_\n\n"
    for word in ("abe", "ace", "add", "ado", "age", "aid", "ail", "aim", "ale", "all") * 3
)  # fmt: skip


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
    from attention_guidance.commands.text.blocks import pack

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
    assert longest_sequence(BertModel(BertConfig(**sizes, max_position_embeddings=900)), tokenizer) == 900
    tokenizer.model_max_length = 64
    assert longest_sequence(AutoModel.from_pretrained(long_model), tokenizer) == 64


@pytest.mark.parametrize(
    ("name", "positions", "more", "takes"),
    [
        ("ModernBert", 8192, {}, 8192),
        ("EuroBert", 8192, {}, 8192),
        ("NomicBert", 2048, {}, 2048),
        # Counted from behind the padding.
        ("XLMRoberta", 8194, {}, 8192),
        # None of its own, and none of the tokenizer's.
        ("T5", None, {"d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8}, 512),
    ],
)
def test_models_of_more_than_512_positions(whole_run, name, positions, more, takes):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model", model_max_length=int(1e30))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
    held = {} if positions is None else {"max_position_embeddings": positions, **sizes}
    config = getattr(transformers, f"{name}Config")(vocab_size=len(tokenizer), **special, **held, **more)
    model = getattr(transformers, "T5EncoderModel" if name == "T5" else f"{name}Model")(config)
    assert longest_sequence(model, tokenizer) == takes
    tokenizer.model_max_length = 300
    assert longest_sequence(model, tokenizer) == 300


def test_a_census_of_longer_blocks_than_512(tmp_path, cli, refusal, whole_run, corpus):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model", model_max_length=int(1e30))
    tokenizer.save_pretrained(tmp_path / "long")
    transformers.ModernBertModel(
        transformers.ModernBertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=8192, pad_token_id=1, bos_token_id=0, eos_token_id=2, cls_token_id=0,
            sep_token_id=2,
        )
    ).save_pretrained(tmp_path / "long")  # fmt: skip
    arguments = [tmp_path / "long", corpus, "--sequences", 1, "--similarity-rows", 0, "-q", "-o", tmp_path / "c"]
    said = refusal("census", *arguments, "--block-size", 9000)
    assert "--block-size 9000: this model takes at most 8192 tokens" in said
    assert cli("census", *arguments, "--block-size", 600) == 0
    assert read(tmp_path / "c" / "census.json")["sample"]["block_size"] == 600


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
    drawn = Counter(d.text for seed in range(3000) for d in _sampled(documents, 4, random.Random(seed)))
    # Each is in a third of the draws: 1,000 give or take 26.
    assert all(abs(drawn[str(n)] - 1000) < 110 for n in range(12))
    assert [d.text for d in _sampled(documents, 12, random.Random(0))] == [str(n) for n in range(12)]


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


def test_skill_of_minimal_pairs(tmp_path, cli, many_checkpoints, pairs, capsys):
    """At each checkpoint the accuracy that `probe --checkpoints` finds."""
    how = ["--task", "minimal-pairs"]
    long = json.dumps({"sentence_good": "abe " * 90, "sentence_bad": "abe"})
    (pairs / "b.jsonl").write_text((pairs / "b.jsonl").read_text() + "\n" + long)
    assert cli("probe", many_checkpoints, pairs, *how, "--checkpoints", "-o", tmp_path / "p", "-q") == 0
    scored = read(tmp_path / "p" / "minimal_pairs.json")["snapshots"]
    capsys.readouterr()
    assert cli("skill", many_checkpoints, "--data", pairs, *how, "-o", tmp_path / "s") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "9 pairs, pairs left out: 1 longer than the model reads" in said
    assert "Accuracy (minimal-pairs) against validation loss" in said
    content = read(tmp_path / "s" / "skill.json")
    assert (content["task"], content["data"], content["seed"]) == ("minimal-pairs", f"{tmp_path.name}/pairs", 1)
    assert content["points"] == [
        {"run": "guided", "step": one["step"], "loss": one["loss"], "accuracy": one["accuracy"]["value"], "chance": 0.5}
        for one in scored
    ]
    assert {(c["run"], c["measure"]) for c in content["correlations"]} == {(None, "accuracy"), ("guided", "accuracy")}
    assert (tmp_path / "s" / "skill.csv").read_text().startswith("run,step,loss,accuracy,chance\n")
    shown = ["--include", tmp_path / "s", "--sequences", 2, "--sentence", "abe", "-q"]
    assert cli("report", many_checkpoints, *shown, "-o", tmp_path / "r") == 0
    assert (tmp_path / "r" / "figures" / "skill-1-minimal-pairs.svg").exists()
    assert "accuracy of the model" in (tmp_path / "r" / "report.html").read_text()


def test_reflexives(tmp_path, cli):
    assert cli("reflexives", "-o", tmp_path / "r", "--sentences", 30, "--no-attractors", "-q") == 0
    assert len((tmp_path / "r" / "reflexives.txt").read_text().splitlines()) == 30
    content = read(tmp_path / "r" / "reflexives.json")
    assert (content["kind"], content["sentences"], content["attractors"]) == ("reflexives", 30, False)


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


def test_a_coreference_tree_of_gold_and_auto_files_is_asked_once(tmp_path, cli, whole_run, capsys):
    """As OntoNotes lies on disk: every document twice, which would put a copy on each side of the split."""
    tree = tmp_path / "tree"
    words = ["abe NNP (1)", "ace NN (2)", "add NN (1)", "age NN (2)", "aid NN -"]
    for number in range(12):
        rows = [w.split() for w in words]
        lines = [f"d/{number} 0 {i} {word} {pos} * - - - - * {mark}" for i, (word, pos, mark) in enumerate(rows)]
        tree.joinpath(f"{number:02}").mkdir(parents=True)
        for kind in ("gold", "auto"):
            text = "\n".join([f"#begin document (d/{number}); part 000", *lines, "", "#end document", ""])
            (tree / f"{number:02}" / f"d.v4_{kind}_conll").write_text(text)
    (tmp_path / "gold").mkdir()
    for path in tree.rglob("*gold_conll"):
        shutil.copy(path, tmp_path / "gold" / f"{path.parent.name}.v4_gold_conll")
    found = []
    for data in (tmp_path / "gold", tree):
        out = tmp_path / f"out-{data.name}"
        assert cli("probe", whole_run, data, "--task", "coreference", "-o", out) == 0
        said = " ".join(capsys.readouterr().out.split())
        found.append(read(out / "probe.json"))
    assert "24 questions in 12 texts, texts left out: 12 read from another file already (gold goes before auto)" in said
    assert found[1]["counts"]["skipped_texts"] == {"read from another file already (gold goes before auto)": 12}
    assert found[0]["labels"] == found[1]["labels"]


def test_studies_use_the_device_that_training_uses(whole_run, monkeypatch):
    (subject,) = models.subjects(str(whole_run))
    monkeypatch.setattr(models, "best_device", lambda: torch.device("meta"))
    for model in (subject.load(), subject.load_masked_lm("")):
        assert model.device.type == "meta"
