"""RoBERTa without feed-forward blocks: what is left of a layer, saving and loading, training guided."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForTokenClassification

from attention_guidance import guide
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.pretraining.model import new_model
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.models import AttentionOnlyConfig, AttentionOnlyForMaskedLM


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = AttentionOnlyConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, type_vocab_size=1,
    )  # fmt: skip
    return AttentionOnlyForMaskedLM(config).eval()


def test_a_layer_is_its_attention(model):
    ids_BT = torch.randint(5, 50, (2, 12))
    hidden_BTC = model.roberta.embeddings(input_ids=ids_BT)
    for layer in model.roberta.encoder.layer:
        hidden_BTC = layer.attention(hidden_BTC)[0]
    torch.testing.assert_close(model.roberta(input_ids=ids_BT).last_hidden_state, hidden_BTC)
    names = [name for name, _ in model.roberta.encoder.named_parameters()]
    assert len(names) == 3 * 10  # queries, keys, values, projection, normalization: weights and biases
    assert not any("intermediate" in name for name in names)


def test_saved_and_loaded_by_every_auto_class(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "attention-only"
    ids_BT = torch.randint(5, 50, (1, 10))
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(whole(input_ids=ids_BT).logits, model(input_ids=ids_BT).logits)
    expected = model.roberta(input_ids=ids_BT).last_hidden_state
    for loader in (AutoModel, AutoModelForTokenClassification):
        loaded = loader.from_pretrained(tmp_path).eval()
        encoder = getattr(loaded, "roberta", loaded)
        torch.testing.assert_close(encoder(input_ids=ids_BT).last_hidden_state, expected)


def test_its_heads_can_be_guided(model):
    model.train()
    guidance = guide(model, "next:1", weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    ids_BT = torch.randint(5, 50, (4, 20))
    errors = []
    for _ in range(150):
        model(input_ids=ids_BT, labels=ids_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        errors.append(max(head.error for head in guidance.per_head()))
    assert errors[-1] < 0.1 < errors[0]


@pytest.mark.parametrize("layers", [24, 48])
def test_the_papers_sizes(layers):
    config = make_config({"preset": f"attention-{layers}"})
    assert (config.arch, config.layers, config.hidden, config.attention_heads) == ("attention-only", layers, 768, 12)
    small = make_config({"preset": f"attention-{layers}", "hidden": 24, "block_size": 16})
    known = {"vocab_size": 300, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    model = new_model(small, MaskedTokens(Masking(0.15, 4, frozenset(range(5)), 300)), known)
    assert len(model.roberta.encoder.layer) == layers


def test_pretrained_and_fine_tuned_by_the_commands(tmp_path, cli, arguments):
    run = tmp_path / "run"
    assert cli("pretrain", *arguments, "--arch", "attention-only", "--max-steps", "6", "-o", run, "-q") == 0
    rows = "".join(f"{'aaa' if n % 2 else 'bbb'} {n}\t{n % 2}\n" for n in range(40))
    (tmp_path / "t.tsv").write_text(f"text\tlabel\n{rows}")
    quick = ["--epochs", "1", "--learning-rates", "1e-3", "--seeds", "1", "--no-baseline", "-q"]
    tune = ["finetune", run, "--task", "classify", "--train", tmp_path / "t.tsv", *quick, "-o", tmp_path / "ft"]
    assert cli(*tune) == 0
    assert json.loads((tmp_path / "ft" / "model" / "config.json").read_text())["model_type"] == "attention-only"
    assert cli("census", run, "-o", tmp_path / "census", "--sequences", "2", "-q") == 0
