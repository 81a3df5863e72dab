"""Models of torch's own nn.MultiheadAttention: guidance, all its gradients, and what is left alone."""

import pytest
import torch
from multihead import (
    CHANNELS,
    HEADS,
    LENGTH,
    MASKS,
    expected_guidance,
    first_of,
    hidden_by,
    inputs_of,
    keep_maps,
    make_attention,
    make_encoder,
    padding,
    slope,
)
from torch import nn

from attention_guidance import guide


def compare(make, call, masks, backend, objective="squared_error"):
    """Output, guidance and gradients of a guided model against those of the unguided one and its maps."""
    plain, guided = make().double(), make().double()
    maps = keep_maps(plain)
    handle = guide(guided, HEADS, weight=0.3, backend=backend, loss=objective)
    output, guided_output = first_of(call(plain)), first_of(call(guided))
    torch.testing.assert_close(guided_output, output, rtol=1e-10, atol=1e-12)
    guidance = 0.3 * expected_guidance(maps, *hidden_by(*masks), objective)
    assert handle.loss().item() == pytest.approx(guidance.item(), rel=1e-10)
    coefficients = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    ((output * coefficients).sum() + guidance).backward()
    ((guided_output * coefficients).sum() + handle.loss()).backward()
    for (name, parameter), other in zip(guided.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-8, atol=1e-11, msg=name)
    return handle


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("masks", list(MASKS))
def test_attention_against_its_own_maps(masks, backend, batch_first, need_weights):
    x = inputs_of(batch_first, torch.float64)
    key_padding_mask, attn_mask = MASKS[masks]

    def call(model):
        return model(
            x, x, x, key_padding_mask=key_padding_mask, attn_mask=attn_mask, need_weights=need_weights
        )  # fmt: skip

    handle = compare(lambda: make_attention(batch_first=batch_first), call, MASKS[masks], backend)
    if backend == "auto":
        taken = "reference" if need_weights or "slope" in masks else "batched"
        assert f"{taken}: taken" in handle.explain_backend()


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("masks", ["none", "padding", "float padding", "window", "both"])
def test_encoder_against_its_own_maps(masks, backend, batch_first, norm_first, objective):
    key_padding_mask, attn_mask = MASKS[masks]
    x = inputs_of(batch_first, torch.float64)

    def call(model):
        return model(x, mask=attn_mask, src_key_padding_mask=key_padding_mask)

    handle = compare(lambda: make_encoder(batch_first, norm_first), call, MASKS[masks], backend, objective)
    if backend == "auto":
        assert "batched: taken" in handle.explain_backend(), "masks that only hide are served by all backends"


def test_values_of_their_own_and_no_bias():
    """DETR adds positions to queries and keys alone."""
    x = inputs_of(dtype=torch.float64)
    with_positions = x + torch.linspace(-1, 1, LENGTH, dtype=torch.float64)[None, :, None]
    for bias in (True, False):

        def make(bias=bias):
            torch.manual_seed(0)
            return nn.MultiheadAttention(CHANNELS, 4, bias=bias, batch_first=True)

        compare(make, lambda model: model(with_positions, with_positions, x, need_weights=False), (None, None), "auto")


def test_inputs_without_a_batch():
    x = inputs_of()[0]
    plain, guided = make_attention(), make_attention()
    handle = guide(guided, HEADS)
    for hidden in (None, padding()[1]):
        output, _ = guided(x, x, x, key_padding_mask=hidden, need_weights=False)
        torch.testing.assert_close(output, plain(x, x, x, key_padding_mask=hidden, need_weights=False)[0])
        alone = handle.loss().item()
        batched = None if hidden is None else hidden[None]
        guided(x[None], x[None], x[None], key_padding_mask=batched, need_weights=False)
        assert handle.loss().item() == alone


def test_views_that_are_alike_are_self_attention():
    """One of them without gradient: what is seen through it must not train."""
    outputs, gradients = [], []
    for weight in (0.0, 1e-30):
        model = make_attention(batch_first=False)
        handle = guide(model, HEADS, weight=weight)
        x = inputs_of().requires_grad_()
        out, _ = model(x.transpose(0, 1), x.detach().transpose(0, 1), x.transpose(0, 1), need_weights=False)
        (out.square().sum() + handle.loss()).backward()
        outputs.append(out)
        gradients.append(x.grad)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_a_learned_mask_gets_its_gradient():
    """One that is all zeros yet must not be taken for one that only hides."""
    x, mask = inputs_of(), torch.zeros(LENGTH, LENGTH, requires_grad=True)
    handle = guide(model := make_attention(), HEADS)
    model(x, x, x, attn_mask=mask, need_weights=False)
    handle.loss().backward()
    assert mask.grad.abs().max() > 1e-4


def test_a_mask_that_is_changed_in_place_is_looked_at_again():
    x, mask = inputs_of(), torch.zeros(LENGTH, LENGTH)
    handle = guide(model := make_attention(), HEADS)
    model(x, x, x, attn_mask=mask, need_weights=False)
    mask += slope(torch.float32)
    changed, _ = model(x, x, x, attn_mask=mask, need_weights=False)
    handle.remove()
    torch.testing.assert_close(changed, model(x, x, x, attn_mask=mask, need_weights=False)[0])


def run(model, call, seed=7):
    torch.manual_seed(seed)
    model.zero_grad()
    output = call(model)
    first_of(output).square().sum().backward()
    return output, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_weight_zero_is_bit_identical(need_weights, average, batch_first, dropout):
    x = inputs_of(batch_first)
    plain, guided = (make_attention(batch_first=batch_first, dropout=dropout) for _ in range(2))
    guide(guided, HEADS, weight=0.0)

    def call(model):
        return model(x, x, x, padding(), need_weights, None, average)

    (output, weights), gradients = run(plain, call)
    (guided_output, guided_weights), guided_gradients = run(guided, call)
    assert torch.equal(guided_output, output)
    assert (weights is None and guided_weights is None) or torch.equal(guided_weights, weights)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(guided_gradients, gradients, strict=True))


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_weight_zero_of_an_encoder_is_bit_identical(batch_first, norm_first):
    x = inputs_of(batch_first)
    plain, guided = (make_encoder(batch_first, norm_first, dropout=0.2) for _ in range(2))
    guide(guided, HEADS, weight=0.0)
    output, gradients = run(plain, lambda model: model(x, src_key_padding_mask=padding()))
    guided_output, guided_gradients = run(guided, lambda model: model(x, src_key_padding_mask=padding()))
    assert torch.equal(guided_output, output)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(guided_gradients, gradients, strict=True))


def test_weights_are_the_modules_own_in_training():
    x = inputs_of()
    plain, guided = make_attention(), make_attention()
    handle = guide(guided, HEADS)
    for average in (True, False):
        output, weights = guided(x, x, x, average_attn_weights=average)
        expected, expected_weights = plain(x, x, x, average_attn_weights=average)
        assert torch.equal(output, expected)
        assert torch.equal(weights, expected_weights)
    assert handle.loss() > 0


def test_dropout_takes_its_share():
    x = inputs_of()
    guided = make_attention(dropout=0.5)
    guide(guided, "next:4")
    torch.manual_seed(0)
    mean = torch.stack([guided(x, x, x, need_weights=False)[0] for _ in range(500)]).mean(0)
    whole = guided.eval()(x, x, x, need_weights=False)[0]
    once = guided.train()(x, x, x, need_weights=False)[0]
    assert (once - whole).abs().max() > 0.1
    torch.testing.assert_close(mean, whole, rtol=0.1, atol=0.1)


def test_evaluation_is_the_modules_own():
    x = inputs_of()
    plain, guided = make_attention().eval(), make_attention().eval()
    guide(guided, HEADS)
    with torch.no_grad():
        assert torch.equal(guided(x, x, x)[0], plain(x, x, x)[0])
    positions = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    other = torch.randn(3, 4, CHANNELS)
    guided(x, x, x, attn_mask=positions, is_causal=True)
    guided(x, other, other), guided(x, x, x, attn_mask=positions.expand(12, -1, -1))
