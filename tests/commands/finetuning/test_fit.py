"""One fine-tuning: it returns the weights of the best epoch, without guidance; outputs become predictions."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from finetunings import read
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    CanineConfig,
    CanineModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from attention_guidance.commands.finetuning.decoding import decode
from attention_guidance.commands.finetuning.examples.data import Data, Example
from attention_guidance.commands.finetuning.examples.encoding import Encoded, encode, scores_of
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import fit
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.fits.predict import predict
from attention_guidance.commands.finetuning.scoring.scores import evaluate
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.errors import DivergedError


def examples(n, seed, swapped=False):
    chance = random.Random(seed)
    made = []
    for _ in range(n):
        label = chance.randrange(2)
        text = ("aa" if label else "oo") + " " + "".join(chance.choices("bcdf", k=4))
        made.append(Example((text,), 1 - label if swapped else label, ""))
    return made


def test_the_best_epoch_comes_back_without_guidance(whole_run):
    """Labels of dev contradict those of training, so the model gets worse on dev with every epoch."""
    source = str(whole_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    splits = {"train": examples(96, 0), "dev": examples(40, 1, swapped=True)}
    data = Data(get_task("classify"), ("x", "y"), splits, {})
    encoded = {split: encode(data, items, tokenizer, 32) for split, items in splits.items()}
    settings = FitSettings(epochs=6, batch_size=8, dropout=0.0, heads="next:1", weight=0.01)
    found, model = fit(data, encoded, source, tokenizer, learning_rate=5e-3, seed=1, settings=settings)
    accuracies = [metrics["accuracy"] for metrics in found.dev]
    assert accuracies[-1] < max(accuracies)
    assert found.epoch == 1 + accuracies.index(max(accuracies))
    outputs = predict(model, encoded["dev"], tokenizer, settings)
    assert (
        evaluate(data, splits["dev"], decode(data, scores_of(data, encoded["dev"], splits["dev"], outputs)))
        == found.dev[found.epoch - 1]
    )
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    assert found.tokens_per_second > 0


@pytest.mark.parametrize(
    ("task", "labels", "logits", "expected"),
    [
        ("classify", ("x", "y", "z"), [0.2, 0.9, -1], 1),
        ("multilabel", ("x", "y", "z"), [0.4, -0.4, 1.4], (1.0, 0.0, 1.0)),
        ("regress", (), [1.5], 1.5),
    ],
)
def test_outputs_become_predictions(task, labels, logits, expected):
    data = Data(get_task(task), labels, {}, {})
    encoded = Encoded([{}], [0], [[]])
    scores = scores_of(data, encoded, [Example(("a",), expected, "")], [np.array(logits)])
    assert decode(data, scores) == [expected]


def test_words_are_read_whichever_side_is_padded(whole_run):
    """Predictions do not depend on the batch. BERT's positions shift with padding on the left, so they are zeroed."""
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    sentences = [Example(tuple("abcdefgh"[:n]), (0,) * n, "") for n in (8, 2, 5)]
    data = Data(get_task("ner"), ("O", "B-X", "I-X"), {}, {})
    encoded = encode(data, sentences, tokenizer, 32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=3, pad_token_id=tokenizer.pad_token_id, **sizes)
    model = BertForTokenClassification(config)
    torch.nn.init.zeros_(model.bert.embeddings.position_embeddings.weight)
    found = {}
    for side in ("right", "left"):
        tokenizer.padding_side = side
        for size in (1, 3):
            outputs = predict(model, encoded, tokenizer, FitSettings(batch_size=size, precision="fp32"))
            assert [len(logits) for logits in outputs] == [len(item["input_ids"]) for item in encoded.inputs]
            found[side, size] = np.concatenate(outputs)
    for logits in found.values():
        np.testing.assert_allclose(logits, found["right", 1], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_are_trained_in_single_precision(tmp_path, cli, whole_run, table, dtype):
    source = tmp_path / "half"
    AutoModel.from_pretrained(whole_run / "model", dtype=dtype).save_pretrained(source)
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(source)
    arguments = ["--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1", "--precision", "fp32", "-q"]
    command = ["finetune", source, "--task", "classify", *table(["x", "y"]), *arguments, "-o", tmp_path / "out"]
    assert cli(*command) == 0
    assert AutoModel.from_pretrained(tmp_path / "out" / "model", dtype="auto").dtype == torch.float32


def test_weights_that_diverge_to_nan_end_training(tmp_path, cli, whole_run, table, capsys):
    model = AutoModel.from_pretrained(whole_run / "model")
    torch.nn.init.constant_(model.get_input_embeddings().weight, float("nan"))
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(whole_run / "model").save_pretrained(tmp_path / "broken")
    arguments = ["--epochs", "2", "--learning-rates", "5e-3", "--seeds", "1", "--precision", "fp32"]
    command = ["finetune", tmp_path / "broken", "--task", "classify", *table(["x", "y"], n=24), *arguments]
    assert cli(*command, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "learning rate 0.005, seed 1: training diverged to NaN or infinite weights in the first epoch" in error
    assert "try lower --learning-rates" in error


@pytest.mark.parametrize(
    ("diverges", "rates"),
    [
        # The highest of three rates diverges; or the best one diverges, but only with the second seed.
        (lambda rate, seed: rate == 1e-2, ["0.001", "0.005"]),
        (lambda rate, seed: rate == 5e-3 and seed == 2, ["0.001", "0.005", "0.01"]),
    ],
)
def test_a_learning_rate_that_diverges_is_skipped(tmp_path, cli, whole_run, table, monkeypatch, diverges, rates):
    def diverging(*args, learning_rate, seed, **kwargs):
        if diverges(learning_rate, seed):
            raise DivergedError(f"learning rate {learning_rate:g}: diverged")
        found, model = fit(*args, learning_rate=learning_rate, seed=seed, **kwargs)
        # On dev, 0.005 is best and 0.01 second.
        best = {1e-3: 0.1, 5e-3: 0.9, 1e-2: 0.5}[learning_rate]
        return replace(found, dev=[metrics | {"accuracy": best} for metrics in found.dev]), model

    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.runner.fit", diverging)
    arguments = ["--epochs", "1", "--learning-rates", "1e-2", "1e-3", "5e-3", "--seeds", "2", "-q"]
    command = ["finetune", whole_run, "--task", "classify", *table(["x", "y"], n=24), *arguments]
    assert cli(*command, "-o", tmp_path / "out") == 0
    content = read(tmp_path / "out")
    assert sorted(content["learning_rates"]) == rates
    taken = 5e-3 if len(rates) == 2 else 1e-2
    assert content["learning_rate"] == taken
    other = 1e-2 if len(rates) == 2 else 5e-3
    notes = [note for note in content["notes"] if "for all of" not in note]
    assert notes == [f"learning rate {other:g}: diverged"]


@pytest.mark.parametrize("kind", [RobertaConfig, BertConfig])
@pytest.mark.parametrize("padding", [0, 1, 5])
def test_a_model_with_another_padding_than_its_tokenizer_s_stays_itself(tmp_path, whole_run, kind, padding):
    """RoBERTa's positions depend on the padding token, which Trainer copies from the tokenizer to the configuration."""
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "tokenizer")
    config = kind(vocab_size=280, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
                  max_position_embeddings=40, pad_token_id=padding)  # fmt: skip
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.embeddings.position_embeddings.weight.data.normal_()
    model.save_pretrained(tmp_path / "source")
    splits = {"train": examples(32, 0), "dev": examples(16, 1)}
    data = Data(get_task("classify"), ("x", "y"), splits, {})
    encoded = {split: encode(data, items, tokenizer, 32) for split, items in splits.items()}
    settings = FitSettings(epochs=1, batch_size=8, precision="fp32")
    source = str(tmp_path / "source")
    _, fitted = fit(data, encoded, source, tokenizer, learning_rate=1e-3, seed=1, settings=settings)
    fitted.save_pretrained(tmp_path / "kept")
    assert fitted.config.pad_token_id == tokenizer.pad_token_id == 1
    loaded = new_model(data, str(tmp_path / "kept"), settings, fresh=False)
    for theirs, ours in zip(*(predict(m, encoded["dev"], tokenizer, settings) for m in (fitted, loaded)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_training_that_diverges_later_keeps_the_best_epoch(whole_run, monkeypatch):
    source = str(whole_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    splits = {"train": examples(32, 0), "dev": examples(16, 1)}
    data = Data(get_task("classify"), ("x", "y"), splits, {})
    encoded = {split: encode(data, items, tokenizer, 32) for split, items in splits.items()}
    settings = FitSettings(epochs=4, batch_size=8)
    trained = new_model(data, source, settings)
    monkeypatch.setattr("attention_guidance.commands.finetuning.fits.fit.new_model", lambda *args: trained)

    def spoil(epoch):
        torch.nn.init.constant_(trained.classifier.out_proj.bias, float("nan"))

    how = {"learning_rate": 5e-3, "seed": 1, "settings": settings, "progress": spoil}
    found, model = fit(data, encoded, source, tokenizer, **how)
    assert (found.epoch, len(found.dev)) == (1, 1)
    # Training stops at the first epoch with NaN weights.
    n_tokens = sum(len(item["input_ids"]) for item in encoded["train"].inputs)
    assert round(found.tokens_per_second * found.seconds) == 2 * n_tokens
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("n_finite", [0, 1])
def test_outputs_that_diverge_to_nan_are_not_scored(tmp_path, cli, whole_run, table, capsys, monkeypatch, n_finite):
    """Of finite weights, as those that overflow: the first label would be predicted for all."""
    forward, n_scored = RobertaForSequenceClassification.forward, []

    def spoiled(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        if not self.training and "labels" not in kwargs:
            n_scored.append(len(n_scored))
            # Dev is one batch.
            if len(n_scored) > n_finite:
                output.logits = output.logits * float("nan")
        return output

    monkeypatch.setattr(RobertaForSequenceClassification, "forward", spoiled)
    given = ["--epochs", "3", "--learning-rates", "5e-3", "--seeds", "1", "--precision", "fp32", "-q"]
    command = ["finetune", whole_run, "--task", "classify", *table(["x", "y"], n=24), *given]
    assert cli(*command, "-o", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    if n_finite == 0:
        assert line.startswith("error: learning rate 0.005, seed 1: training diverged to NaN or infinite outputs in ")
    else:
        # Its first epoch is good, but not when it is scored.
        assert line.startswith("error: the model computes NaN or infinite scores")
    assert not (tmp_path / "out" / "finetune.json").exists()
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize("family", ["t5", "canine"])
def test_what_a_model_cannot_do_is_one_line(tmp_path, cli, whole_run, table, capsys, family):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    if family == "t5":
        small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        model = T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **small))
    else:
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = CanineModel(CanineConfig(**small))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    command = ["finetune", tmp_path / "model", "--task", "classify", *table(["x", "y"], n=24)]
    assert cli(*command, "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    expected = {"t5": "the t5 model fails on the first examples for classify", "canine": "CanineModel reads no tokens"}
    assert expected[family] in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_names_no_padding_token_is_taken(tmp_path, cli, whole_run, table):
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    GPT2Model(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = ["--epochs", "1", "--learning-rates", "5e-3", "--seeds", "1", "-q"]
    command = ["finetune", tmp_path / "model", "--task", "classify", *table(["x", "y"], n=24), *arguments]
    assert cli(*command, "-o", tmp_path / "out") == 0
