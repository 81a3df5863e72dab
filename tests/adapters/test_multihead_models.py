"""Whole models with nn.MultiheadAttention inside: their losses, training, copies, compiled and checkpointed."""

import pytest
import torch
from copied import WAYS, copied
from multihead import (
    HEADS,
    LENGTH,
    MASKS,
    Tagger,
    expected_guidance,
    first_of,
    inputs_of,
    keep_maps,
    make_attention,
    make_encoder,
    padding,
    tagged,
)
from torch import nn

from attention_guidance import get_guidance, guide
from attention_guidance.adapters.multihead import MultiheadForward


def test_the_loss_of_a_dict_holds_guidance():
    plain, guided = Tagger(), Tagger()
    handle = guide(guided, HEADS, weight=0.5)
    objective, total = plain(**tagged())["loss"].item(), guided(**tagged())["loss"].item()
    assert handle.loss().item() > 0.1
    assert total == pytest.approx(objective + handle.loss().item())
    assert torch.equal(guided.eval()(**tagged())["loss"], plain.eval()(**tagged())["loss"])


def test_token_classes_and_padding_by_the_names_of_arguments():
    model = Tagger()
    handle = guide(model, "mine:1", token_classes={"mine": list(range(8))})
    batch = tagged()
    model(batch["input_ids"], batch["attention_mask"])
    by_argument = handle.loss().item()
    assert by_argument > 0
    bare = make_encoder()
    torch.testing.assert_close(bare.state_dict(), model.encoder.state_dict())
    by_mask = guide(bare, HEADS)
    bare(model.embedded(batch["input_ids"]), src_key_padding_mask=padding())
    handle.remove()
    by_name = guide(model, HEADS)
    model(**batch)
    assert by_name.loss().item() == pytest.approx(by_mask.loss().item())


def test_output_of_a_bare_encoder_is_left_alone():
    x = inputs_of()
    plain, guided = make_encoder(), make_encoder()
    guide(guided, HEADS, weight=1.0)
    output = guided(x)
    assert output.shape == x.shape
    torch.testing.assert_close(output, plain(x))


def test_a_layer_alone_and_some_layers():
    x = inputs_of()
    layer = make_encoder().layers[0]
    handle = guide(layer, HEADS)
    layer(x)
    assert handle.loss() > 0
    model = make_encoder(n_layers=3)
    handle = guide(model, "1: next:2")
    model(x, src_key_padding_mask=padding())
    assert [(head.layer, head.head) for head in handle.per_head()] == [(1, 0), (1, 1)]
    assert [("forward" in layer.self_attn.__dict__) for layer in model.layers] == [False, True, False]
    with handle.measure(), torch.no_grad():
        model.eval()(x, src_key_padding_mask=padding())


def train(model, batch, n_steps=100):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(n_steps):
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


def test_training_follows_the_pattern_until_it_is_removed():
    model = Tagger()
    for layer in model.encoder.layers:
        layer.self_attn._reset_parameters()
    handle = guide(model, HEADS, weight=1.0)
    model(**tagged())
    before = max(head.error for head in handle.per_head())
    train(model, tagged())
    after = max(head.error for head in handle.per_head())
    assert after < 0.15 < 0.5 < before
    handle.remove()
    model.eval()
    plain = Tagger().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(**tagged())["loss"], plain(**tagged())["loss"])
    train(model.train(), tagged(), 2)


def test_remove_leaves_no_trace():
    model = make_encoder()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: dict(module.__dict__) for name, module in model.named_modules()}
    classes = [type(module) for module in model.modules()]
    handle = guide(model, HEADS)
    assert isinstance(model.layers[1].self_attn.forward, MultiheadForward)
    assert not model.use_nested_tensor
    assert [type(module) for module in model.modules()] == classes
    assert model.state_dict().keys() == state.keys()
    model(inputs_of())
    handle.remove()
    handle.remove()
    assert model.use_nested_tensor
    for name, module in model.named_modules():
        assert module.__dict__.keys() == attributes[name].keys()
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_pre_hooks_with_kwargs
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert not make_encoder(norm_first=True).use_nested_tensor
    guide(other := make_encoder(norm_first=True), HEADS).remove()
    assert not other.use_nested_tensor, "what was off stays off"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [make_encoder, make_attention])
def test_copies_are_guided_models_of_their_own(make, way):
    x = inputs_of()
    model = make()
    handle = guide(model, HEADS, weight=0.5)
    arguments = (x,) if make is make_encoder else (x, x, x)
    first_of(model(*arguments)).sum().backward()
    other = copied(model, way)
    other_handle = get_guidance(other)
    assert other_handle is not handle
    handle.remove()
    attention = [module for module in other.modules() if isinstance(module, nn.MultiheadAttention)]
    forwards = [getattr(module.forward, "own", None) or module.forward for module in attention]
    assert all(forward.module is module for forward, module in zip(forwards, attention, strict=True))
    model(*arguments)
    other(*arguments)
    assert other_handle.loss().item() == pytest.approx(handle.loss().item())
    other_handle.remove()
    assert all("forward" not in module.__dict__ and not module._forward_pre_hooks for module in attention)
    assert getattr(other, "use_nested_tensor", True)


@pytest.mark.parametrize("masks", ["none", "padding"])
def test_measuring_sees_every_layer_past_the_fast_path(masks):
    x, hidden = inputs_of(dtype=torch.float64), MASKS[masks][0]
    hidden = None if hidden is None else hidden.clone()
    if hidden is not None:
        hidden[2] = False  # nested tensors are for padding on the right
    plain, model = make_encoder().double(), make_encoder().double().eval()
    maps = keep_maps(plain)
    plain(x, src_key_padding_mask=hidden)
    handle = guide(model, HEADS)
    with handle.measure(), torch.no_grad():
        output = model(x, src_key_padding_mask=hidden)
        measured = handle.per_head()
    with torch.no_grad():
        assert torch.equal(model(x, src_key_padding_mask=hidden), output), "measuring does not change the output"
    assert sum(head.error for head in measured) == pytest.approx(expected_guidance(maps, hidden).item(), rel=1e-9)
    assert {head.layer for head in measured} == {0, 1}
    handle.remove()
    with torch.no_grad():
        fused = model(x, src_key_padding_mask=hidden)
    shown = ~hidden if hidden is not None else torch.ones(3, LENGTH, dtype=torch.bool)
    torch.testing.assert_close(fused[shown], output[shown])


@pytest.mark.parametrize("masks", ["none", "padding"])
def test_compiled_as_one_graph(masks):
    x, hidden = inputs_of(), MASKS[masks][0]
    plain, model = make_encoder(), make_encoder()
    handle, compiled_handle = guide(plain, HEADS), guide(model, HEADS)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        for each, of in ((plain, handle), (compiled, compiled_handle)):
            each.zero_grad()
            (each(x, src_key_padding_mask=hidden).square().mean() + of.loss()).backward()
        assert compiled_handle.loss().item() == pytest.approx(handle.loss().item())
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    compiled.eval()(x, src_key_padding_mask=hidden)


def test_checkpointing_gives_the_same_gradients():
    plain, checkpointed = Tagger(), Tagger(checkpointed=True)
    for model in (plain, checkpointed):
        guide(model, HEADS, weight=1.0)
        model(**tagged())["loss"].backward()
    for ours, theirs in zip(checkpointed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
