"""Passes without gradients are of no loss, unless all of it is without; and leave nothing behind."""

from __future__ import annotations

import copy

import eager_maps
import encoders
import pytest
import torch
from test_passes import FIRST, HEADS, SECOND, TOLERANCE, Siamese, by_definition, texts
from torch import nn

from attention_guidance import get_guidance, guide


@pytest.fixture(params=["Bert", "Albert", "ModernBert"])
def encoder(request):
    return encoders.make(request.param)[0]


class StopGradient(nn.Module):
    """One view trains toward the other."""

    def __init__(self, encoder, constant_first=False):
        super().__init__()
        self.encoder = encoder
        self.constant_first = constant_first

    def constant(self, inputs):
        with torch.no_grad():
            return self.encoder(**inputs).last_hidden_state[:, 0]

    def forward(self, first, second):
        if self.constant_first:
            target = self.constant(second)
            view = self.encoder(**first).last_hidden_state[:, 0]
        else:
            view = self.encoder(**first).last_hidden_state[:, 0]
            target = self.constant(second)
        return {"loss": (view - target).square().mean()}


@pytest.mark.parametrize("constant_first", [False, True])
def test_a_constant_target_adds_nothing(encoder, constant_first):
    plain = copy.deepcopy(encoder)
    whole = StopGradient(encoder, constant_first)
    objective = copy.deepcopy(whole)(FIRST, SECOND)["loss"].item()
    handle = guide(whole, HEADS, weight=0.5)
    loss = whole(FIRST, SECOND)["loss"]
    value = by_definition(plain, FIRST).item()
    assert loss.item() == pytest.approx(objective + 0.5 * value, rel=TOLERANCE)
    assert handle.loss().item() == pytest.approx(0.5 * value, rel=TOLERANCE)


def test_calls_before_the_whole(encoder):
    """Embeddings that were made beforehand, in training mode and without gradients."""
    plain = copy.deepcopy(encoder)
    whole = Siamese(encoder)
    handle = guide(whole, HEADS, weight=0.5)
    with torch.no_grad():
        for _ in range(3):
            whole.encode(FIRST)
    loss = whole(FIRST, SECOND)["loss"].item()
    expected = Siamese(copy.deepcopy(plain))(FIRST, SECOND)["loss"].item()
    expected += 0.5 * sum(by_definition(plain, inputs).item() for inputs in (FIRST, SECOND))
    assert loss == pytest.approx(expected, rel=TOLERANCE)
    with torch.no_grad():
        assert whole(FIRST, SECOND)["loss"].item() == pytest.approx(expected, rel=TOLERANCE), "all of it is without"
    assert handle.loss().item() > 0


def held(handle):
    return len(handle._passes._training) + len(handle._passes._reached)


class TestNothingIsLeftBehind:
    """What is held does not grow with the number of passes."""

    def test_a_momentum_encoder(self):
        """A copy of the part, which no whole calls."""
        whole = Siamese(encoders.make("Bert")[0])
        guide(whole.encoder, HEADS, within=whole)
        momentum = copy.deepcopy(whole.encoder)
        for _ in range(6):
            with torch.no_grad():
                momentum(**FIRST)
            whole(FIRST, SECOND)["loss"].backward()
        assert held(get_guidance(momentum)) == 0
        assert held(get_guidance(whole)) <= 4

    def test_a_whole_without_a_loss(self):
        whole = nn.Sequential()
        whole.encoder = encoders.make("Bert")[0]
        whole.forward = lambda inputs: whole.encoder(**inputs).last_hidden_state
        handle = guide(whole, HEADS)
        with torch.no_grad():
            for _ in range(6):
                whole(FIRST)
        assert held(handle) <= 1

    @pytest.mark.parametrize("labelled", [False, True])
    def test_passes_that_no_backward_pass_comes_to(self, make_model, batch, labelled):
        model = make_model()
        handle = guide(model, HEADS)
        for _ in range(6):
            model(**{name: batch[name] for name in batch if labelled or name != "labels"})
            handle.loss()
        assert held(handle) <= 1

    @pytest.mark.parametrize("joined", [False, True])
    def test_frozen_queries_and_keys(self, make_model, batch, joined):
        model = make_model()
        model.roberta.requires_grad_(False)
        handle = guide(model, HEADS)
        for _ in range(6):
            output = model(**batch)
            (output.loss if joined else output.logits.mean()).backward()
        assert held(handle) <= 1

    def test_layers_that_are_compiled(self, make_model, batch):
        model = make_model()
        for layer in model.roberta.encoder.layer:
            layer.compile(backend="eager")
        handle = guide(model, HEADS)
        for _ in range(6):
            model(**batch).loss.backward()
        assert held(handle) <= 1


@pytest.mark.parametrize("scale", [1.0, 1e-5, 0.0])
@pytest.mark.parametrize("small", ["query", "key", "query key"])
def test_checkpointing_tells_texts_apart_whose_queries_are_alike(scale, small):
    """Queries or keys that begin at (or next to) zero; the texts have targets of their own by their padding."""
    model = encoders.make("Bert")[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(f".{part}." in name for part in small.split()):
                parameter.mul_(scale)
    first, second = texts(1, 10), texts(2, 10)
    # Each has tokens where the other has none.
    second["attention_mask"] = second["attention_mask"].roll(1, 0)
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for one in (model, plain):
        whole = Siamese(one)
        guide(whole, HEADS, weight=0.5)
        whole(first, second)["loss"].backward()
    eager_maps.assert_same_gradients(model, plain)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_checkpointing_of_numbers_that_are_not_finite(value):
    """A GradScaler skips such steps; guidance does not take them for another batch."""
    model = encoders.make("Bert")[0]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    handle = guide(model, HEADS, weight=0.5)
    with torch.no_grad():
        model.embeddings.LayerNorm.weight[0] = value
    output = model(**FIRST).last_hidden_state.sum() + handle.loss()
    output.backward()
    assert not output.isfinite()
