"""The benchmark of equal time: two arms at a tiny size, and optimizers that train what they should."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from small_runs import made_up_text
from started import benchmark
from transformers import RobertaConfig, RobertaForMaskedLM

from benchmarks.pretraining.equal_time import with_muon

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip


run = partial(benchmark, "pretraining.equal_time")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "made-up"
    (folder / "ner").mkdir(parents=True)
    (folder / "train.txt").write_text(made_up_text(700))
    for split in ("train", "dev", "test"):
        (folder / "ner" / f"{split}.txt").write_text(f"Ada B-PER\nlives O\nin O\n{split} O\n\n" * 3)
    return folder.parent


def test_arms_have_one_tokenizer_and_as_many_steps_as_fit(tmp_path, data):
    kept = tmp_path / "kept.jsonl"
    arms = ("--arms", "the recipe's", "Muon")
    small = ("--with", "preset=tiny", "batch_size=2", "report_to=none", "vocab_size=300")
    done = run("made-up", "--seconds", "0.2", *arms, *small, "--data", data, "--results", kept)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [record["arm"] for record in records] == [*arms[1:]]
    first, second = records
    assert (first["model"], first["curve"][0]["loss"]) == (second["model"], second["curve"][0]["loss"])
    for record in records:
        assert record["curve"][-1]["step"] == record["steps"]
        assert f"{record['final_loss']:.3f} | {record['final_accuracy']:.1%}" in done.stdout
    assert run("nowhere", "--data", data, "--results", kept).returncode == 2


def test_muon_trains_the_matrices_of_the_layers_on_the_schedule():
    model = RobertaForMaskedLM(RobertaConfig(**SIZES))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = SimpleNamespace(model=model, args=SimpleNamespace(learning_rate=1e-2, weight_decay=0.0))
    optimizer = with_muon(trainer)
    matrices = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    assert {"query", "dense"} <= {name.split(".")[-2] for name, p in model.named_parameters() if id(p) in matrices}
    assert not any("embedding" in name for name, p in model.named_parameters() if id(p) in matrices)
    optimizer.param_groups[0]["lr"] = 0.0
    model(input_ids=torch.arange(5, 15)[None], labels=torch.arange(5, 15)[None]).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) in matrices or parameter.grad is None), name
