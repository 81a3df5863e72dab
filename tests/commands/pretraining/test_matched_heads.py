"""`--match-heads`: the heads of a trained model that are closest to their patterns are guided."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from small_runs import assert_same_weights, one_line
from transformers import AutoModelForMaskedLM

from attention_guidance.commands.studies.models import subjects

REST = "--block-size 32 --batch-size 4 --max-steps 4 --save-every 2 --validation-share 0.05 --report-to none"


@pytest.fixture(scope="module")
def swapped(whole_run, tmp_path_factory):
    """The whole run, whose head 0 follows `next`, with both heads changed places; what it computes stays."""
    model = AutoModelForMaskedLM.from_pretrained(whole_run / "model")
    with torch.no_grad():
        of = model.roberta.encoder.layer[0].attention
        for part in (of.self.query, of.self.key, of.self.value):
            part.weight.copy_(part.weight.roll(16, 0))
            part.bias.copy_(part.bias.roll(16, 0))
        of.output.dense.weight.copy_(of.output.dense.weight.roll(16, 1))
    folder = tmp_path_factory.mktemp("swapped") / "model"
    shutil.copytree(whole_run / "model", folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def matched(corpus, swapped, cli, capsys, tmp_path):
    """Continue from the model with matched heads; gives exit code, output and errors."""

    def run(*more, command="pretrain", heads="next:1"):
        capsys.readouterr()
        given = [corpus, *REST.split(), "--init-from", swapped, "--heads", heads, "-o", tmp_path / "out"]
        code = cli(command, *given, *more)
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


def heads_of(folder):
    return [
        (head["layer"], head["head"], head["pattern"])
        for head in json.loads((folder / "results.json").read_text())["guidance"]
    ]


def test_the_closest_head_is_guided(matched, tmp_path):
    code, said, error = matched("--match-heads")
    assert code == 0, error
    assert heads_of(tmp_path / "out") == [(0, 1, "next")]
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["heads"] == "0: next@1"
    assert subjects(str(tmp_path / "out"))[0].guided_heads() == {(0, 1): "next"}
    assert "guiding the heads that are closest to their patterns: their mean error is" in said


def test_without_it_the_first_is(matched, tmp_path):
    assert matched("-q")[0] == 0
    assert heads_of(tmp_path / "out") == [(0, 0, "next")]


def test_heads_that_are_given_by_number_stay(matched, tmp_path):
    assert matched("-q", "--match-heads", heads="next@0 previous:1")[0] == 0
    assert heads_of(tmp_path / "out") == [(0, 0, "next"), (0, 1, "previous")]


def test_a_resumed_run_keeps_what_it_found(matched, tmp_path):
    assert matched("-q", "--match-heads")[0] == 0
    out, whole = tmp_path / "out", tmp_path / "whole"
    shutil.copytree(out, whole)
    shutil.rmtree(out / "model")
    shutil.rmtree(out / "checkpoints" / "checkpoint-4")
    (out / "results.json").unlink()
    assert matched("-q", "--match-heads", "--resume")[0] == 0
    assert json.loads((out / "results.json").read_text())["resumed_from"] == 2
    assert_same_weights(out, whole)
    assert heads_of(out) == [(0, 1, "next")]
    # Rounding may find another head on another machine; the run's are those that it began with.
    settings = out / "run.yaml"
    settings.write_text(settings.read_text().replace("next@1", "next@0"))
    shutil.rmtree(out / "model")
    assert matched("-q", "--match-heads", "--resume")[0] == 0
    assert heads_of(out) == [(0, 0, "next")]
    code, _, error = matched("-q", "--match-heads", "--resume", heads="previous:1")
    assert code == 2
    assert "resume it with the same settings" in one_line(error)


def test_a_comparison_guides_them_too(matched, tmp_path):
    code, _, error = matched("-q", "--match-heads", "--new-tokenizer", "--vocab-size", "300", command="compare")
    assert code == 0, error
    seed = tmp_path / "out" / "seed-1"
    assert heads_of(seed / "guided") == [(0, 1, "next")]
    assert heads_of(seed / "unguided") == []
    maps = json.loads((tmp_path / "out" / "attention_maps.json").read_text())["snapshots"]
    assert {(m["head"], m["pattern"]) for shown in maps for m in shown["maps"] if m["pattern"]} == {(1, "next")}
    memory = json.loads((tmp_path / "out" / "compare.json").read_text())["peak_memory"]
    assert memory["guided_mib"] > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--match-heads"], "--match-heads True is for a run with --init-from; leave it out"),
        (
            ["--match-heads", "--init-from", "{swapped}", "--objective", "mim"],
            "--match-heads True is for objectives of text with one encoder; leave it out",
        ),
    ],
)
def test_what_it_is_not_for(corpus, swapped, cli, capsys, tmp_path, more, said):
    given = [part.format(swapped=swapped) for part in more]
    assert cli("pretrain", corpus, *given, "-o", tmp_path / "out") == 2
    assert said in one_line(capsys.readouterr().err)
