"""What heads are looked at on, in the forms that a user has it in; and what is said of a model that cannot be."""

from __future__ import annotations

import encoders
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, SwinConfig, SwinModel

from attention_guidance import get_pattern, guide
from attention_guidance.analysis import attention_maps, head_divergence, observing, take_census
from attention_guidance.commands.probes.answers import answer
from attention_guidance.errors import AttachError, ConfigError, PatternError

TEXT = "the king saw him."


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    return BertModel(BertConfig(vocab_size=80, max_position_embeddings=50, **sizes)).eval()


def forms(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    tensor = torch.tensor([ids])
    return {
        "text": TEXT, "texts": [TEXT], "ids": ids, "several ids": [ids], "tensor": tensor, "row": tensor[0],
        "tensors": [tensor], "array": np.array(ids), "batch": {"input_ids": tensor},
        "encoding": tokenizer(TEXT, return_tensors="pt"), "batches": [{"input_ids": tensor}],
        "generator": ({"input_ids": x} for x in [tensor]),
        "loader": DataLoader([{"input_ids": tensor[0]}]),
        "lists": tokenizer(TEXT), "lists of lists": tokenizer([TEXT]), "arrays": tokenizer(TEXT, return_tensors="np"),
        "plain lists": {"input_ids": ids},
    }  # fmt: skip


FORMS = (
    "text", "texts", "ids", "several ids", "tensor", "row", "tensors", "array", "batch", "encoding", "batches",
    "generator", "loader", "lists", "lists of lists", "arrays", "plain lists",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_census_and_a_comparison_take_every_form(bert, tokenizer, form):
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    expected = take_census(bert, [{"input_ids": ids}], [get_pattern("next")])
    found = take_census(bert, forms(tokenizer)[form], [get_pattern("next")], tokenizer=tokenizer)
    np.testing.assert_allclose(found.mass.value, expected.mass.value, atol=1e-7)
    assert (found.n_sequences, found.n_tokens) == (1, ids.shape[1])
    divergence = head_divergence(bert, forms(tokenizer)[form], tokenizer=tokenizer)
    np.testing.assert_allclose(divergence, head_divergence(bert, [{"input_ids": ids}]), atol=1e-7)


@pytest.mark.parametrize("form", ["text", "ids", "tensor", "row", "array", "batch", "encoding", "lists", "arrays"])
def test_maps_take_every_form_of_one_sequence(bert, tokenizer, form):
    ids_T = torch.tensor(tokenizer(TEXT)["input_ids"])
    expected = attention_maps(bert, ids_T)
    assert torch.equal(attention_maps(bert, forms(tokenizer)[form], tokenizer=tokenizer), expected)
    assert expected.shape == (2, 2, len(ids_T), len(ids_T))


@pytest.mark.parametrize(
    "patterns", ["next period", ["next", "period"], ("next", get_pattern("offset:1")), get_pattern("next"), "next"]
)
def test_patterns_by_name(bert, tokenizer, patterns):
    if isinstance(patterns, tuple):
        with pytest.raises(PatternError, match="next, next"):
            take_census(bert, TEXT, patterns, tokenizer=tokenizer)
        return
    census = take_census(bert, TEXT, patterns, tokenizer=tokenizer)
    assert census.patterns[0] == "next"
    assert census.rows[0, -1] == (7 if census.patterns[-1] == "period" else 6)


def test_classes_of_ones_own_by_name(bert, tokenizer):
    census = take_census(bert, TEXT, "royal", tokenizer=tokenizer, token_classes={"royal": ["king"]})
    assert census.rows.tolist() == [[7], [7]]


def test_what_is_no_batch_is_named(bert, tokenizer):
    cases = [
        (TEXT, r"'the king saw him.' is a text; pass the model's tokenizer as tokenizer= too"),
        ([torch.zeros(2, 3)], r"a batch is a torch.float32 tensor of shape \(2, 3\); give a mapping"),
        ([[torch.zeros(2, 3)]], "a batch is a list; give a mapping of the model's arguments"),
        (3, "batches is a int; give a mapping"),
        ([None], "a batch is a NoneType"),
        ([], "batches is empty"),
        ({"input_ids": [[1, 2], [3]]}, "the input_ids of a batch differ in length; pad them"),
    ]
    for given, message in cases:
        with pytest.raises(ConfigError, match=message):
            take_census(bert, given, "next")
        with pytest.raises(ConfigError, match=message):
            head_divergence(bert, given)
    with pytest.raises(ConfigError, match=r"has 62 tokens and the model takes 40; split the text"):
        take_census(bert, "king " * 60, "next", tokenizer=tokenizer)
    with pytest.raises(ConfigError, match=r"takes one sequence, but the batch has 2; pass one at a time"):
        attention_maps(bert, torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(ConfigError, match="is a text"):
        attention_maps(bert, TEXT)
    with observing(bert, lambda layer, call: None) as watched, pytest.raises(ConfigError, match="is a text"):
        watched(TEXT)
    with pytest.raises(ConfigError, match="a text is a str; give a QuestionedText"):
        answer(bert, tokenizer, [TEXT])
    for wrong, message in (
        ("nxt", "unknown pattern 'nxt'"),
        ([3], "3 is not a Pattern"),
        ("period", "give tokenizer="),
    ):
        with pytest.raises(PatternError, match=message):
            take_census(bert, [[1, 2, 3]], wrong)


def decoder():
    return GPT2Model(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = encoders.make("Bert")[0], encoders.make("Bert")[0]


def encoder_decoder(name="T5"):
    import transformers

    sizes = {
        "T5": {"d_model": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2, "d_ff": 8},
        "Bart": {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        },
        "Whisper": {
            "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
            "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "pad_token_id": 0,
        },
    }[name]  # fmt: skip
    config = getattr(transformers, f"{name}Config")(vocab_size=30, **sizes)
    return getattr(transformers, f"{name}Model")(config)


@pytest.mark.parametrize("name", ["T5", "Bart", "Whisper"])
def test_an_encoder_decoder_is_no_decoder(name):
    model = encoder_decoder(name)
    said = rf"{name}Model cannot be looked at: it is an encoder-decoder; looking is for bidirectional encoders; "
    for looking in (take_census, lambda model, ids, patterns: head_divergence(model, ids)):
        with pytest.raises(AttachError, match=rf"{said}look at its encoder alone$"):
            looking(model, [[3, 4, 5]], "next")
    with pytest.raises(AttachError, match=rf"{name}Model is an encoder-decoder .* pass only its encoder"):
        attention_maps(model, [3, 4, 5])
    said = rf"{name}Model cannot be guided: it is an encoder-decoder; .*guide\(\) takes its encoder alone, with within="
    with pytest.raises(AttachError, match=said):
        guide(model, "next:1")
    if name != "Whisper":
        assert take_census(model.encoder, [[3, 4, 5]], "next").n_layers == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (decoder, r"GPT2Model cannot be looked at: it is a decoder; looking is for bidirectional encoders"),
        (lambda: nn.Linear(2, 2), r"Linear cannot be looked at: only models of transformers"),
        (Two, r"Two contains more than one thing to look at: first .* look at the part you want$"),
        (lambda: encoders.make("XLM")[0], r"so it cannot be looked at; BERT"),
        (lambda: nn.Transformer(8, 2, 1, 1), r"Transformer cannot be looked at: .* look at the encoder alone"),
        (lambda: encoder_decoder("Bart").decoder, r"BartDecoder cannot be looked at: it is a decoder"),
        (lambda: nn.MultiheadAttention(8, 2, add_zero_attn=True), r"cannot be looked at: .*add_zero_attn"),
        (lambda: object(), r"and looking needs a torch.nn.Module"),
    ],
)
def test_what_cannot_be_looked_at_is_not_said_to_be_unguidable(make, message):
    with pytest.raises(AttachError, match=message) as caught:
        take_census(make(), [[3, 4, 5]], "next")
    assert "guid" not in str(caught.value).replace("attention_guidance", "")


def test_causal_attention_in_a_pass_cannot_be_looked_at():
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=64, max_position_embeddings=16, **sizes))
    with pytest.raises(AttachError, match="attends causally, and looking is for bidirectional encoders; look at the"):
        take_census(model, [[5, 6, 7]], "next")


def test_maps_of_windows_are_refused():
    model = SwinModel(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    )
    with pytest.raises(AttachError, match=r"SwinModel returns maps of shape .* attends within windows"):
        attention_maps(model, {"pixel_values": torch.zeros(1, 3, 16, 16)})
