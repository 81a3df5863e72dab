"""What people give to guide() and its like: taken, or refused in one line that names it; never another exception."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from attention_guidance import Pattern, get_pattern, guide, match_heads
from attention_guidance.analysis import attention_maps, head_divergence, observing, take_census
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.models.attention_only import AttentionOnlyConfig, AttentionOnlyModel
from attention_guidance.patterns import Custom, Offset, TokenClass
from attention_guidance.schedules import checked_weight

HEADS = "next:1 previous:1 first:1"
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


NUMBERS = [
    0, 2, 0.1, np.float32(0.1), np.float64(0.1), np.int64(2), np.array(0.1), torch.tensor(0.5), Decimal("0.5"),
]  # fmt: skip
OTHERS = [
    -1, -0.1, np.float32(-1), float("nan"), np.float32("nan"), torch.tensor(float("nan")), float("inf"), 10**400,
    "0.1", None, True, [0.1], 1j, np.array([0.1, 0.2]), torch.ones(2),
]  # fmt: skip


class TestWeight:
    @pytest.mark.parametrize("weight", NUMBERS, ids=repr)
    def test_every_kind_of_number_is_taken(self, make_model, weight):
        assert checked_weight(weight) == float(weight)
        assert type(checked_weight(weight)) is float
        assert guide(make_model(), HEADS, weight).current_weight == float(weight)

    @pytest.mark.parametrize("weight", OTHERS, ids=lambda weight: repr(weight)[:12])
    def test_anything_else_is_refused(self, make_model, weight):
        with pytest.raises(ConfigError, match=r"weight=.* must be 0 or a positive number"):
            checked_weight(weight)
        with pytest.raises(ConfigError, match="weight="):
            guide(make_model(), HEADS, weight)


TAKERS = {
    "guide": lambda model: guide(model, HEADS),
    "match_heads": lambda model: match_heads(model, HEADS, [{}]),
    "take_census": lambda model: take_census(model, [], [Offset(1)]),
    "head_divergence": lambda model: head_divergence(model, []),
    "attention_maps": lambda model: attention_maps(model, torch.arange(3)),
    "observing": lambda model: observing(model, print).__enter__(),
}


class TestNoModel:
    """All functions that take a model say what else they were given."""

    @pytest.mark.parametrize("name", TAKERS)
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("bert-base-uncased", r"load the model first: AutoModel\.from_pretrained\('bert-base-uncased'\)"),
            (None, r"model is of class NoneType, and (guidance|looking) needs a torch\.nn\.Module"),
            (BertModel, r"model=BertModel is a class; pass an instance"),
            (nn.TransformerEncoder, "model=TransformerEncoder is a class"),
            (BertConfig(), "model is of class BertConfig"),
            ({"weight": torch.ones(2)}, "model is of class dict"),
        ],
    )
    def test_anything_else_is_refused(self, name, given, message):
        with pytest.raises(AttachError, match=message):
            TAKERS[name](given)

    def test_what_holds_a_model_is_told_apart(self, make_model):
        holder = type("Pipeline", (), {"model": make_model()})()
        with pytest.raises(AttachError, match=r"of class Pipeline.*its .model is one"):
            guide(holder, HEADS)

    def test_within(self, make_model):
        model = make_model()
        with pytest.raises(AttachError, match=r"within='whole' is not a torch\.nn\.Module"):
            guide(model, HEADS, within="whole")
        assert model.config._attn_implementation == "sdpa"

    def test_maps_of_models_that_give_none(self):
        with pytest.raises(AttachError, match="Linear is not a transformers model"):
            attention_maps(nn.Linear(2, 2), torch.arange(3))


class TestHeads:
    @pytest.mark.parametrize(
        ("heads", "message"),
        [
            ("next@0,3-2", r"heads '0,3-2' in 'next@0,3-2': the range '3-2' is reversed; write 2-3"),
            ("next@3-0", "'3-0' is reversed; write 0-3"),
            ("0,2-1: next:1", "layers '0,2-1' in heads: the range '2-1' is reversed; write 1-2"),
            ("2-1: next:1", "'2-1' is reversed"),
            ({"2-0": "next:1"}, "'2-0' is reversed"),
            ({-1: "next:1"}, "cannot read layers '-1' in heads; expected numbers from 0 and ranges"),
            ({-1: {"next": 1}, 0: {"first": 1}}, "cannot read layers '-1'"),
            ({np.int64(-2): "next:1"}, "cannot read layers '-2'"),
            ({True: "next:1"}, r"must be a string \('next:1 first:2'\)"),
            ({9: "next:1"}, "layer '9' in heads does not exist"),
            ("7-: next:1", "layer '7-' in heads does not exist"),
            ("0,,1: next:1", "cannot read layers '0,,1'"),
            ("0-99999999999: next:1", "cannot read layers"),
            ("next@0-99999999999", "cannot read heads"),
            ("next:" + "9" * 5000, "cannot read"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, make_model, heads, message):
        with pytest.raises(PatternError, match=message):
            guide(make_model(), heads)

    def test_numbers_of_numpy_are_layers(self, make_model):
        handle = guide(make_model(), {np.int64(1): "next:1", np.int32(2): "first@1-1"})
        assert [(head.layer, head.head) for head in handle.heads] == [(1, 0), (2, 1)]


class Unhashable(Pattern):
    name = "mine"
    __hash__ = None

    def targets(self, sequences):
        return Offset(1).targets(sequences)


class Nameless(Pattern):
    def targets(self, sequences):
        return Offset(1).targets(sequences)


class Unhashed:
    """A function with a list, as a dataclass with one is."""

    __hash__ = None

    def __call__(self, sequences):
        return sequences.valid_BT


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            (Unhashable(), r"pattern 'mine' \(Unhashable\) is not hashable.*frozen dataclass"),
            (TokenClass("mine", [5, 6]), r"pattern 'mine' \(TokenClass\) is not hashable"),
            (Custom("mine", Unhashed()), r"pattern 'mine' \(Custom\) is not hashable"),
            (Offset(1).where(Unhashed(), "mine"), r"pattern 'mine' \(Where\) is not hashable"),
            (Nameless(), "a pattern of class Nameless has no name"),
        ],
    )
    def test_patterns_that_cannot_be_used(self, make_model, batch, pattern, message):
        with pytest.raises(PatternError, match=message):
            guide(make_model(), "mine:1", patterns={"mine": pattern})
        with pytest.raises(PatternError, match=message):
            take_census(make_model(), [batch], [pattern])

    def test_no_patterns_at_all(self, make_model, batch):
        with pytest.raises(PatternError, match="5 is not a Pattern"):
            take_census(make_model(), [batch], [5])
        with pytest.raises(PatternError, match="must be a string such as 'next', not 5"):
            get_pattern(5)
        with pytest.raises(PatternError, match="patterns= is a list"):
            guide(make_model(), "mine:1", patterns=["mine"])
        with pytest.raises(PatternError, match="token_classes= is a set"):
            guide(make_model(), "period:1", token_classes={"period"})
        with pytest.raises(PatternError, match=r"AutoTokenizer.from_pretrained \(not 'bert-base-uncased'\)"):
            guide(make_model(), "period:1", tokenizer="bert-base-uncased")

    @pytest.mark.parametrize("wrong", ["100", 0, -5, float("nan"), [100]])
    def test_runs_of_no_length(self, make_model, wrong):
        with pytest.raises(ConfigError, match=r"total_steps=.* must be the length of the run in steps"):
            guide(make_model(), HEADS, schedule="linear", total_steps=wrong)
        assert guide(make_model(), HEADS, schedule="linear", total_steps=np.int64(100)).current_weight == 0.1

    @pytest.mark.parametrize("setting", ["loss", "normalization", "backend"])
    def test_settings_of_no_name(self, make_model, setting):
        for wrong in ([], {}, None, 3):
            with pytest.raises(ConfigError, match="unknown"):
                guide(make_model(), HEADS, **{setting: wrong})


def vision(config_class, model_class, **sizes):
    return model_class(config_class(**SIZE, image_size=16, patch_size=8, num_channels=3, **sizes)).train()


WITH = {
    "ViT": lambda: vision(ViTConfig, ViTModel),
    "Dinov2": lambda: vision(Dinov2Config, Dinov2Model),
}
WITHOUT = {
    "SiglipVision": lambda: vision(SiglipVisionConfig, SiglipVisionModel),
    "Bert": lambda: BertModel(BertConfig(**SIZE, vocab_size=30)),
    "AttentionOnly": lambda: AttentionOnlyModel(AttentionOnlyConfig(**SIZE, vocab_size=30)),
    "nn.TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), 1),
}


class TestClassToken:
    @pytest.mark.parametrize("name", WITH)
    def test_models_that_have_one(self, name):
        model = WITH[name]()
        handle = guide(model, "class_token:1", weight=1.0)
        model(pixel_values=torch.randn(2, 3, 16, 16))
        assert handle.rows_per_head() == [2 * 5]

    @pytest.mark.parametrize("heads", ["class_token:1", "left|class_token:1", "next:1 class_token|next|previous:1"])
    @pytest.mark.parametrize("name", WITHOUT)
    def test_models_that_have_none(self, name, heads):
        model = WITHOUT[name]()
        with pytest.raises(PatternError, match=f"class token of an image model, and {type(model).__name__} has"):
            guide(model, heads)
        guide(model, "first:1")

    def test_some_queries_alone(self):
        rows = get_pattern("class_token").where(lambda sequences: sequences.valid_BT, "mine")
        with pytest.raises(PatternError, match="'mine' attends to the class token"):
            guide(WITHOUT["SiglipVision"](), "mine:1", patterns={"mine": rows})

    def test_the_census_too(self):
        batch = {"pixel_values": torch.randn(2, 3, 16, 16)}
        with pytest.raises(PatternError, match="attends to the class token"):
            take_census(WITHOUT["SiglipVision"](), [batch], [get_pattern("class_token")])
        with pytest.raises(PatternError, match="attends to the class token"):
            match_heads(WITHOUT["SiglipVision"](), "class_token:1", [batch])

    def test_a_class_token_of_the_whole(self):
        """An encoder of torch's own is given its class token by the model around it."""

        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
                self.encoder = WITHOUT["nn.TransformerEncoder"]()

        whole = Whole()
        guide(whole.encoder, "class_token:1", within=whole)
