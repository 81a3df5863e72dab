"""Which model a run trains: any masked language model of transformers, a configuration's, a trained one's."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig

from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.pretraining.model import new_model
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.errors import ConfigError

SIZES = {"layers": 2, "hidden": 32, "attention_heads": 2, "feed_forward": 64, "block_size": 32}
KNOWN = {"vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
NAMING = MaskedTokens(Masking(0.15, 4, frozenset(range(5)), 300))
ARCHITECTURES = [
    "roberta",
    "bert",
    "modernbert",
    "deberta-v2",
    "albert",
    "electra",
    "distilbert",
    "camembert",
    "attention-only",
]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_any_kind_has_the_sizes_of_the_run(arch):
    config = make_config({**SIZES, "arch": arch})
    model = new_model(config, NAMING, KNOWN)
    assert model.config.model_type == arch
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 32)
    assert model.config.vocab_size == 300
    assert model.config.pad_token_id == 1
    ids_BT = torch.randint(5, 300, (2, 32))
    assert torch.isfinite(model(input_ids=ids_BT, labels=ids_BT).loss)


@pytest.mark.parametrize("arch", ["roberta", "modernbert", "attention-only"])
def test_initial_weights_have_the_deviation_of_the_run(arch):
    wide = {**SIZES, "arch": arch, "hidden": 64, "initializer_range": 0.1}
    model = new_model(make_config(wide), NAMING, KNOWN)
    embeddings = [weight for name, weight in model.named_parameters() if "embedding" in name.lower()]
    weights = torch.cat([weight.detach().flatten() for weight in embeddings])
    assert 0.08 < float(weights[(weights != 0) & (weights != 1)].std()) < 0.12


def test_a_model_without_such_a_deviation_says_so():
    with pytest.raises(ConfigError, match=r"initializer_range=0.1: xlm has no such setting; leave it out"):
        new_model(make_config({**SIZES, "arch": "xlm", "initializer_range": 0.1}), NAMING, KNOWN)


def test_dropout_is_that_of_the_run():
    model = new_model(make_config({**SIZES, "arch": "modernbert", "dropout": 0.3}), NAMING, KNOWN)
    assert (model.config.mlp_dropout, model.config.attention_dropout) == (0.3, 0.3)


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_they_train_guided_with_accumulation(tmp_path, cli, arguments, arch):
    kept = {}
    for accumulation in ("1", "2"):
        out = tmp_path / accumulation
        run = [*arguments, "--arch", arch, "--max-steps", "6", "--dropout", "0", "--accumulation", accumulation]
        assert cli("pretrain", *run, "--precision", "fp32", "-o", out, "-q") == 0
        kept[accumulation] = json.loads((out / "results.json").read_text())
        assert kept[accumulation]["model"]["type"] == arch
        assert AutoModelForMaskedLM.from_pretrained(out / "model").config.model_type == arch
    # The same batches in one pass and in two.
    assert kept["1"]["final_loss"] == pytest.approx(kept["2"]["final_loss"], abs=2e-4)


@pytest.mark.parametrize("arch", ["bert", "modernbert"])
def test_they_train_unguided_with_accumulation(tmp_path, cli, arguments, arch):
    losses = []
    for accumulation in ("1", "2"):
        out = tmp_path / accumulation
        run = [*arguments, "--arch", arch, "--max-steps", "6", "--dropout", "0", "--accumulation", accumulation]
        assert cli("pretrain", *run, "--heads", "", "--precision", "fp32", "-o", out, "-q") == 0
        losses.append(json.loads((out / "results.json").read_text())["final_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_a_configuration_decides_but_for_the_tokenizer(tmp_path, cli, arguments):
    stated = BertConfig(
        vocab_size=7, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=50,
        max_position_embeddings=40, hidden_act="relu",
    )  # fmt: skip
    stated.to_json_file(tmp_path / "config.json")
    file = tmp_path / "config.json"
    free = [*arguments]
    for name in ("--layers", "--hidden", "--attention-heads", "--feed-forward", "--dropout"):
        place = free.index(name)
        del free[place : place + 2]
    out = tmp_path / "run"
    assert cli("pretrain", *free, "--arch-config", file, "--max-steps", "3", "-o", out, "-q") == 0
    made = json.loads((out / "model" / "config.json").read_text())
    assert (made["hidden_size"], made["num_hidden_layers"], made["hidden_act"]) == (48, 3, "relu")
    assert made["vocab_size"] == 280
    results = json.loads((out / "results.json").read_text())
    assert results["config"]["layers"] == 3
    assert {head["layer"] for head in results["guidance"]} == {0, 1, 2}
    assert cli("pretrain", *free, "--arch-config", file, "--max-steps", "3", "-o", out, "-q", "--resume") == 0


def test_training_goes_on_from_a_run(tmp_path, cli, arguments, whole_run, corpus):
    out = tmp_path / "more"
    more = [corpus, "--init-from", whole_run, "--block-size", "32", "--batch-size", "4", "--max-steps", "4"]
    more += ["--validation-share", "0.05", "--heads", "next:1", "--learning-rate", "1e-9", "--report-to", "none"]
    assert cli("pretrain", *more, "-o", out, "-q") == 0
    before, after = (json.loads((run / "results.json").read_text()) for run in (whole_run, out))
    assert after["final_loss"] == pytest.approx(before["final_loss"], abs=1e-3)
    assert (out / "tokenizer" / "tokenizer.json").read_text() == (
        whole_run / "tokenizer" / "tokenizer.json"
    ).read_text()
    card = (out / "model" / "README.md").read_text()
    assert "Pre-trained from run/model with the objective `mlm`" in card
    assert "this data only" not in card
    assert "trained on this data and, before, on that of run/model" in card
    assert "The model was trained on this data only" in (whole_run / "model" / "README.md").read_text()
    assert after["config"]["init_from"] == str(whole_run / "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arch": "robertaa"}, "is not a model type of transformers"),
        ({"arch": "gpt2"}, "'gpt2' has no masked language model"),
        ({"arch": "bert", "arch_config": "CONFIG"}, "arch='bert' and arch_config='.*' both decide"),
        ({"arch_config": "nowhere.json"}, "nowhere.json'.*cannot be loaded"),
        ({"arch_config": "EMPTY"}, "has no model_type"),
        ({"arch_config": "CONFIG", "layers": 9}, "layers=9, but `arch_config` decides that it is 3"),
        ({"init_from": "/nowhere/at/all"}, "no such folder"),
        ({"arch_config": "CONFIG", "block_size": 64}, "block_size=64: this model takes at most 40"),
    ],
)
def test_what_is_refused(tmp_path, settings, message):
    BertConfig(num_hidden_layers=3, max_position_embeddings=40).to_json_file(tmp_path / "config.json")
    (tmp_path / "empty.json").write_text("{}")
    files = {"CONFIG": str(tmp_path / "config.json"), "EMPTY": str(tmp_path / "empty.json")}
    with pytest.raises(ConfigError, match=message):
        new_model(make_config({name: files.get(value, value) for name, value in settings.items()}), NAMING, KNOWN)


def test_a_trained_model_has_a_tokenizer(whole_run):
    with pytest.raises(ConfigError, match="vocab_size=300 is for training a tokenizer"):
        make_config({"init_from": str(whole_run), "vocab_size": 300})
