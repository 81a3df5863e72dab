"""Which forward passes a loss holds: an encoder may be called directly, several times, and piece by piece."""

from __future__ import annotations

import copy
import inspect

import eager_maps
import encoders
import pytest
import torch
import towers
from multihead import HEADS as MULTIHEAD_HEADS
from multihead import inputs_of, make_encoder
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention_guidance import get_guidance, guide
from attention_guidance.errors import AttachError
from attention_guidance.loss.statistics import OBJECTIVES

HEADS = "next:1 first:1"
# Several families' eager attention takes its softmax in float32, also of doubles.
TOLERANCE = 1e-7


def definitions(n_layers=2):
    by_head = {}
    for layer in range(n_layers):
        by_head[layer, 0] = lambda b, i: [i + 1]
        by_head[layer, 1] = lambda b, i: [0]
    return by_head


def texts(seed: int, length: int):
    """Three texts, the second of which is shorter."""
    ids = torch.randint(5, 60, (3, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    ids[1, length - 2 :], mask[1, length - 2 :] = 1, 0
    return {"input_ids": ids, "attention_mask": mask}


FIRST, SECOND = texts(1, 10), texts(2, 7)


def by_definition(model, inputs):
    """The guidance of one call, of an unguided copy, with gradient."""
    valid_BT = inputs["attention_mask"].bool()
    # No key of padding: `next` of the last token has no target.
    return eager_maps.guidance(model, inputs, definitions(model.config.num_hidden_layers), valid_BT)


class Siamese(nn.Module):
    """Two texts through one encoder; the loss is how far apart they are."""

    def __init__(self, encoder, call="__call__"):
        super().__init__()
        self.encoder = encoder
        self.call = call

    def encode(self, inputs):
        return getattr(self.encoder, self.call)(**inputs).last_hidden_state[:, 0]

    def forward(self, first, second):
        return {"loss": (self.encode(first) - self.encode(second)).square().mean()}


@pytest.fixture(params=["Bert", "Albert", "ModernBert"])
def encoder(request):
    return encoders.make(request.param)[0]


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_layers_share_what_is_prepared_from_targets(loss):
    model, inputs = encoders.make("Bert")
    handle = guide(model, HEADS, loss=loss, backend="batched")
    model(**inputs)
    assert len(handle._layers) == 2
    assert len(handle._passes.last.shared) == 1


@pytest.mark.parametrize("call", ["__call__", "forward"])
@pytest.mark.parametrize("guided", ["whole", "part"])
def test_two_texts_join_one_loss(encoder, call, guided):
    """Called through its hooks or past them, guided as a part or found in the whole."""
    plain = copy.deepcopy(encoder)
    # Before the model is set to eager attention.
    objective = Siamese(copy.deepcopy(encoder))(FIRST, SECOND)["loss"]
    expected = objective + 0.5 * (by_definition(plain, FIRST) + by_definition(plain, SECOND))
    siamese = Siamese(encoder, call)
    if guided == "whole":
        guide(siamese, HEADS, weight=0.5)
    else:
        guide(encoder, HEADS, weight=0.5, within=siamese)
    loss = siamese(FIRST, SECOND)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    again = siamese(FIRST, SECOND)["loss"]
    assert again.item() == pytest.approx(expected.item(), rel=TOLERANCE), "a loss begins anew"
    loss.backward()
    (objective_of(plain) + 0.5 * (by_definition(plain, FIRST) + by_definition(plain, SECOND))).backward()
    eager_maps.assert_same_gradients(encoder, plain, 1e-6)


def objective_of(model):
    return Siamese(model)(FIRST, SECOND)["loss"]


def test_a_loss_of_ones_own_holds_both_texts(encoder):
    plain = copy.deepcopy(encoder)
    handle = guide(encoder, HEADS, weight=1.0)
    values = [by_definition(plain, inputs).item() for inputs in (FIRST, SECOND)]
    one, two = (encoder(**inputs).last_hidden_state for inputs in (FIRST, SECOND))
    loss = handle.loss()
    assert loss.item() == pytest.approx(sum(values), rel=TOLERANCE)
    assert handle.loss().item() == loss.item(), "it can be read twice"
    # Of 28 and 19 tokens the last of each text has no next one; ModernBERT's windows hide the first from most.
    assert handle.rows_per_head()[:2] == [28 - 3 + 19 - 3, 28 + 19]
    (one.sum() + two.sum() + loss).backward()
    encoder(**FIRST)
    assert handle.loss().item() == pytest.approx(values[0], rel=TOLERANCE)


def test_what_happens_in_between_does_not_count(encoder):
    """Evaluation, a pass without gradients, a look at the heads."""
    plain = copy.deepcopy(encoder)
    handle = guide(encoder, HEADS, weight=1.0)
    expected = sum(by_definition(plain, inputs).item() for inputs in (FIRST, SECOND))
    encoder(**FIRST)
    encoder.eval()(**SECOND)
    encoder.train()
    with torch.no_grad():
        encoder(**SECOND)
    with handle.measure(), torch.no_grad():
        encoder.eval()(**FIRST)
    encoder.train()
    encoder(**SECOND)
    assert handle.loss().item() == pytest.approx(expected, rel=TOLERANCE)


def test_two_texts_under_checkpointing():
    model = encoders.make("Bert")[0]
    plain = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    siamese = Siamese(model)
    guide(siamese, HEADS, weight=0.5)
    siamese(FIRST, SECOND)["loss"].backward()
    (objective_of(plain) + 0.5 * (by_definition(plain, FIRST) + by_definition(plain, SECOND))).backward()
    eager_maps.assert_same_gradients(model, plain, 1e-8)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_the_whole_model(reentrant):
    """What is made again in the backward pass is no further pass."""
    model = encoders.make("Bert")[0]
    plain = copy.deepcopy(model)
    siamese = Siamese(model)
    guide(siamese, HEADS, weight=0.5)
    anchor = torch.zeros((), requires_grad=True)
    for _ in range(2):
        model.zero_grad()
        loss = checkpoint(lambda _: siamese(FIRST, SECOND)["loss"], anchor, use_reentrant=reentrant)
        loss.backward()
    expected = objective_of(plain) + 0.5 * (by_definition(plain, FIRST) + by_definition(plain, SECOND))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    eager_maps.assert_same_gradients(model, plain, 1e-8)


def test_forward_called_directly(make_model, batch):
    """It runs the hooks, so that guidance and all else that hangs on the model is there."""
    model, other = make_model(), make_model()
    guide(model, HEADS, weight=1.0)
    guide(other, HEADS, weight=1.0)
    seen = []
    other.register_forward_hook(lambda *_: seen.append(1))
    loss = other.forward(**batch).loss
    assert loss.item() == model(**batch).loss.item() > make_model()(**batch).loss.item() + 0.1
    assert seen == [1]
    assert inspect.signature(other.forward) == inspect.signature(make_model().forward)
    get_guidance(other).remove()
    assert "forward" not in other.__dict__
    assert other.forward(**batch).loss.item() == make_model()(**batch).loss.item()


def test_forward_called_directly_after_a_pass_that_failed(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS, weight=1.0)
    expected = model(**batch).loss.item()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("stop")), prepend=False).remove()
    hook = model.register_forward_pre_hook(raising)
    with pytest.raises(RuntimeError, match="stop"):
        model(**batch)
    hook.remove()
    assert model.forward(**batch).loss.item() == expected
    assert handle.loss() > 0


def raising(*_):
    raise RuntimeError("stop")


def test_a_forward_that_is_wrapped_afterwards(make_model, batch):
    """As Accelerate's mixed precision does: ours stays beneath, and removed it only passes calls on."""
    model = make_model()
    handle = guide(model, HEADS, weight=1.0)
    expected, plain = model(**batch).loss.item(), make_model()(**batch).loss.item()
    inner = model.forward
    model.forward = lambda **inputs: inner(**inputs)
    assert model(**batch).loss.item() == expected
    handle.remove()
    assert model(**batch).loss.item() == plain


def test_forward_of_torchs_own_encoder():
    model, other = make_encoder(), make_encoder()
    handles = [guide(one, MULTIHEAD_HEADS, weight=1.0) for one in (model, other)]
    x = inputs_of()
    model(x)
    other.forward(x)
    assert handles[0].loss().item() == handles[1].loss().item() > 0.1
    other.forward(x)
    other.forward(x[:, :5])
    both = handles[1].loss().item()
    other.forward(x[:, :5])
    assert both == pytest.approx(handles[0].loss().item() + handles[1].loss().item(), rel=1e-6)


class TestOutsideOfAPass:
    """What would train unguided raises; what does not train is left alone."""

    def test_a_part_of_the_model(self, make_model, batch):
        model = make_model()
        handle = guide(model, HEADS)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with pytest.raises(AttachError, match=r"RobertaForMaskedLM was called in training mode outside of a guided"):
            model.roberta(**inputs)
        with torch.no_grad():
            model.roberta(**inputs)
        model.eval().roberta(**inputs)
        model.train()
        handle.weight = 0
        model.roberta(**inputs)

    def test_a_model_in_evaluation_mode_around_a_part_that_trains(self, make_model, batch):
        model = make_model().eval()
        model.roberta.train()
        guide(model, HEADS)
        with pytest.raises(AttachError, match="outside of a guided forward pass"):
            model(**batch)

    def test_layers_that_share_their_weights(self):
        model, inputs = encoders.make("Albert")
        whole = nn.ModuleDict({"albert": model})
        guide(model, HEADS)
        hidden = model.embeddings(inputs["input_ids"])
        with pytest.raises(AttachError, match="outside of a guided forward pass"):
            whole["albert"].encoder(hidden)

    def test_a_layer_of_torchs_own(self):
        model = make_encoder()
        handle = guide(model, MULTIHEAD_HEADS)
        with pytest.raises(AttachError, match="outside of a guided forward pass"):
            model.layers[0](inputs_of())
        handle.remove()
        model.layers[0](inputs_of())


class TestPieceByPiece:
    """Attention that is called once an image or once a window, within one pass of the model."""

    @pytest.mark.parametrize("name", list(towers.VISION))
    def test_all_rows_count(self, name):
        model, inputs = towers.tower(name)
        maps = towers.maps_by_call(copy.deepcopy(model), inputs)
        handle = guide(model, "next:1", weight=1.0)
        model(**inputs)
        expected = []
        for calls in maps.values():
            rows = []
            for map_HQK in calls:
                for i in range(map_HQK.shape[1] - 1):
                    target = torch.zeros_like(map_HQK[0, i])
                    target[i + 1] = 1
                    rows.append((map_HQK[0, i] - target).square().sum())
            expected.append(torch.stack(rows).mean())
        assert handle.rows_per_head() == [sum(m.shape[1] - 1 for m in calls) for calls in maps.values()]
        assert handle.rows_per_head()[-1] == 15 + 31
        assert [head.error for head in handle.per_head()] == pytest.approx([e.item() for e in expected], rel=TOLERANCE)
        assert handle.loss().item() == pytest.approx(sum(expected).item(), rel=TOLERANCE)
        handle.loss().backward()
        assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0

    def test_under_checkpointing(self):
        model, inputs = towers.tower("Qwen2VL")
        plain = copy.deepcopy(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        for one in (model, plain):
            handle = guide(one, "next:1", weight=1.0)
            one(**inputs)
            handle.loss().backward()
        eager_maps.assert_same_gradients(model, plain)

    def test_targets_of_the_batch_do_not_say_which_call_they_are_for(self):
        model, inputs = towers.tower("Qwen2VL")
        guide(model, "given:1", weight=1.0)
        inputs = {"hidden_states": inputs["hidden_states"][:32], "grid_thw": torch.tensor([(1, 4, 4), (1, 4, 4)])}
        with pytest.raises(AttachError, match="called more than once in a forward pass"):
            model(**inputs, guidance_targets=torch.ones(1, 16, 16, dtype=torch.bool))
