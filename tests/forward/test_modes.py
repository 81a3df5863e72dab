"""Whoever evaluates a model gives every module its own mode back, the modes of frozen parts too, and errors as well."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BatchEncoding

from attention_guidance import guide, match_heads
from attention_guidance.analysis import attention_maps, head_divergence, take_census
from attention_guidance.commands.finetuning.examples.encoding import Encoded
from attention_guidance.commands.finetuning.fits.predict import predict
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.objectives.base import validate, validation_batches
from attention_guidance.commands.objectives.masked_lm import MaskedTokens
from attention_guidance.commands.objectives.masking import Masking
from attention_guidance.commands.text.blocks import Blocks
from attention_guidance.forward.modes import evaluating
from attention_guidance.patterns import Offset


class Tokens:
    """What `predict` takes of a tokenizer, for items of one length."""

    padding_side = "right"

    def pad(self, items, return_tensors):
        return BatchEncoding({"input_ids": torch.tensor([item["input_ids"] for item in items])})


def some_blocks():
    ids = np.random.default_rng(0).integers(5, 60, (3, 12)).astype(np.uint16)
    return Blocks(ids, np.full(3, 12, np.int32))


OBJECTIVE = MaskedTokens(Masking(0.15, 4, frozenset(range(5)), 60))
ITEMS = Encoded([{"input_ids": [5, 6, 7]}], [0], [[]])
BATCHES = [{"input_ids": torch.arange(5, 15)[None]}]
EVALUATIONS = {
    "attention_maps": lambda model: attention_maps(model, torch.arange(5, 15)),
    "validate": lambda model: validate(model, OBJECTIVE, validation_batches(some_blocks(), OBJECTIVE, 2)),
    "predict": lambda model: predict(model, ITEMS, Tokens(), FitSettings(precision="fp32")),
    "take_census": lambda model: take_census(model, BATCHES, [Offset(1)]),
    "head_divergence": lambda model: head_divergence(model, BATCHES),
    "match_heads": lambda model: match_heads(model, "next:1", BATCHES),
}


def modes_of(model):
    return {name: module.training for name, module in model.named_modules()}


def half_frozen(model):
    """A model whose embeddings and first layer are kept in evaluation mode, as frozen parts with dropout are."""
    model.train()
    model.roberta.embeddings.eval()
    model.roberta.encoder.layer[0].eval()
    return model


@pytest.mark.parametrize("name", EVALUATIONS)
def test_frozen_parts_stay_in_evaluation_mode(make_model, name):
    model = half_frozen(make_model())
    before = modes_of(model)
    EVALUATIONS[name](model)
    assert modes_of(model) == before


@pytest.mark.parametrize("name", EVALUATIONS)
def test_parts_that_train_alone_go_on_training(make_model, name):
    model = make_model().eval()
    model.lm_head.train()
    before = modes_of(model)
    EVALUATIONS[name](model)
    assert modes_of(model) == before


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_error_on_the_way_changes_no_mode(make_model, name):
    model = half_frozen(make_model())
    before = modes_of(model)

    def fail(*args):
        assert not any(modes_of(model).values())
        raise RuntimeError("on the way")

    model.roberta.encoder.layer[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on the way"):
        EVALUATIONS[name](model)
    assert modes_of(model) == before
    assert model.config._attn_implementation == "sdpa"


def test_any_module():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluating(model):
        assert modes_of(model) == {"": False, "0": False, "1": False}
    assert modes_of(model) == {"": True, "0": True, "1": False}


def test_maps_of_a_guided_model_leave_it_guided(make_model, batch):
    model = half_frozen(make_model())
    handle = guide(model, "next:1")
    attention_maps(model, batch["input_ids"][0])
    model(**batch)
    assert handle.loss() > 0


def test_validation_leaves_the_random_generators_of_all_devices_alone(make_model, monkeypatch):
    """What manual_seed seeds is what fork_rng gives back: watched, as there need be no second GPU."""
    forked = []
    real = torch.random.fork_rng

    def fork_rng(devices, *args, **kwargs):
        forked.append(list(devices))
        return real([])

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model = make_model()
    state = torch.get_rng_state()
    EVALUATIONS["validate"](model)
    assert forked == [[0, 1]]
    assert torch.equal(torch.get_rng_state(), state)
