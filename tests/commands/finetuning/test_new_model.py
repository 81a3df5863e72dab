"""Every fine-tuning starts with a new head, even if the model was already fine-tuned."""

from __future__ import annotations

import pytest
import torch
from finetunings import read
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    ModernBertConfig,
    RobertaConfig,
)

from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.errors import ConfigError

SIZES = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16}  # fmt: skip
KINDS = [BertConfig, RobertaConfig, DebertaV2Config, ModernBertConfig]


def make(data, source, seed):
    torch.manual_seed(seed)
    return new_model(data, str(source), FitSettings())


def parts(model):
    """Weights of the encoder, and the randomly initialized weights of the head."""
    of_encoder = {id(parameter) for parameter in model.base_model.parameters()}
    named = [(name, p.detach()) for name, p in model.named_parameters() if "pooler" not in name or "bert" not in name]
    return (
        {name: value for name, value in named if id(dict(model.named_parameters())[name]) in of_encoder},
        {
            name: value
            for name, value in named
            if id(dict(model.named_parameters())[name]) not in of_encoder and value.ndim > 1
        },
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("task", "n_labels"), [("classify", 2), ("classify", 5), ("multilabel", 2), ("ner", 2)])
def test_the_old_head_is_not_taken(tmp_path, kind, task, n_labels):
    more = {"pad_token_id": 0} if kind is ModernBertConfig else {}
    old = AutoModelForSequenceClassification.from_config(kind(**SIZES, **more, num_labels=2))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.fill_(0.37)
    old.save_pretrained(tmp_path / "old")
    data = Data(get_task(task), tuple("abcde"[:n_labels]), {}, {})
    first, again, other = (make(data, tmp_path / "old", seed) for seed in (1, 1, 2))
    encoder, head = parts(first)
    assert head
    assert all((value == 0.37).all() for name, value in encoder.items() if "pooler" not in name)
    for name, value in head.items():
        assert not (value == 0.37).any()
        assert torch.equal(value, parts(again)[1][name])
        assert not torch.equal(value, parts(other)[1][name])
    # Equal to the head of a model that was never fine-tuned.
    AutoModelForMaskedLM.from_config(kind(**SIZES, **more)).save_pretrained(tmp_path / "plain")
    plain = parts(make(data, tmp_path / "plain", 1))[1]
    assert all(torch.equal(value, plain[name]) for name, value in head.items())


def test_an_encoder_of_another_size_is_refused(tmp_path):
    model = AutoModelForMaskedLM.from_config(BertConfig(**SIZES))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:9].clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=f"cannot be loaded for rte .{name} has a different size than"):
        make(Data(get_task("rte"), ("a", "b"), {}, {}), tmp_path, 1)


def test_a_model_that_was_fine_tuned_is_fine_tuned_on_another_task(tmp_path, cli, whole_run, table):
    fast = ["--epochs", "1", "--seeds", "1", "--no-baseline", "-q", "--learning-rates", "1e-9"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("finetune", whole_run, "--task", "classify", *table(["x", "y"], n=24), "-o", first, *fast) == 0
    assert "already fine-tuned" not in str(read(first)["notes"])
    files = table(["1", "2", "3"], n=24)
    assert cli("finetune", first / "model", "--task", "classify", *files, "-o", second, *fast) == 0
    said = "the model was already fine-tuned (RobertaForSequenceClassification); its head is replaced by a new one"
    assert said in read(second)["notes"]
    model = AutoModelForSequenceClassification.from_pretrained(second / "model")
    assert model.config.id2label == {0: "1", 1: "2", 2: "3"}
    old = AutoModelForSequenceClassification.from_pretrained(first / "model").classifier.dense.weight
    assert (model.classifier.dense.weight - old).abs().max() > 1e-3
    AutoTokenizer.from_pretrained(second / "model")
