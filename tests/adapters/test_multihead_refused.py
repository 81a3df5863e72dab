"""What of models with nn.MultiheadAttention cannot be guided, and what is said then."""

import pytest
import torch
from multihead import CHANNELS, HEADS, LENGTH, inputs_of, make_attention, make_encoder, padding
from torch import nn

from attention_guidance import guide
from attention_guidance.errors import AttachError


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = make_encoder()

    def forward(self, x, y):
        return self.encoder(x) + self.encoder(y)


def test_what_can_be_guided():
    with pytest.raises(AttachError, match=r"Linear cannot be guided.*PreTrainedModel.*nn\.MultiheadAttention"):
        guide(nn.Linear(2, 2), HEADS)


def test_a_wrapped_model_of_transformers(make_model):
    wrapped = nn.ModuleDict({"encoder": make_model(), "pool": make_attention()})
    with pytest.raises(AttachError, match=r"encoder \(RobertaForMaskedLM\) beside modules of nn.Mul"):
        guide(wrapped, HEADS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add_bias_kv": True}, "add_bias_kv=True"),
        ({"add_zero_attn": True}, "add_zero_attn=True"),
        ({"kdim": 8}, "kdim=8 and embed_dim=16"),
        ({"vdim": 8}, "vdim=8 and embed_dim=16"),
    ],
)
def test_options(options, message):
    with pytest.raises(AttachError, match=message):
        guide(nn.MultiheadAttention(CHANNELS, 4, **options), HEADS)


def test_numbers_of_heads_that_differ():
    model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4))
    with pytest.raises(AttachError, match="0 has 2 heads and 1 has 4"):
        guide(model, "next:1")


def test_decoders():
    for model in (nn.Transformer(8, 2, 1, 1, 8, batch_first=True), nn.TransformerDecoderLayer(8, 2)):
        with pytest.raises(AttachError, match="is a decoder layer"):
            guide(model, "next:1")
    assert guide(nn.Transformer(8, 2, 1, 1, 8, batch_first=True).encoder, "next:1")


def test_twice():
    model = make_encoder()
    guide(model, HEADS)
    with pytest.raises(AttachError, match=r"guided already; call remove\(\)"):
        guide(model, HEADS)
    with pytest.raises(AttachError, match="guided already"):
        guide(model.layers[0], HEADS)


def test_a_forward_of_its_own():
    class Other(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    with pytest.raises(AttachError, match=r"\(Other\) has its own forward"):
        guide(Other(8, 2), "next:1")
    model = make_attention()
    model.forward = lambda *args: None
    with pytest.raises(AttachError, match="has its own forward"):
        guide(model, HEADS)


def test_a_refused_guide_changes_nothing():
    model = make_encoder()
    with pytest.raises(ValueError, match="heads"):
        guide(model, "next:9")
    assert model.use_nested_tensor
    assert "forward" not in model.layers[0].self_attn.__dict__
    assert not model._forward_hooks


def test_calls():
    x, model = inputs_of(), make_attention()
    guide(model, HEADS)
    hides = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for arguments, options, message in (
        ((x, x.clone(), x), {}, "MultiheadAttention was called with a key that is not its query"),
        ((x, x, x), {"attn_mask": hides, "is_causal": True}, "attends causally"),
        ((x, x, x), {"attn_mask": hides.expand(12, -1, -1)}, "mask for each head"),
        ((x, x, x), {"attn_mask": hides[:1]}, r"attn_mask must be of shape \(9, 9\)"),
        ((x, x, x), {"key_padding_mask": padding().long()}, r"bool or float, not \(3, 9\), torch.int64"),
        ((x, x, x), {"key_padding_mask": padding().T}, r"must be of shape \(3, 9\)"),
    ):
        with pytest.raises(AttachError, match=message):
            model(*arguments, **options)
    model(x, x, x)


def test_a_causal_encoder():
    model = make_encoder()
    guide(model, HEADS)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    with pytest.raises(AttachError, match=r"layers\.0\.self_attn attends causally"):
        model(inputs_of(), mask=mask)


def test_two_calls_in_one_pass():
    model, x = Twice(), inputs_of()
    handle = guide(model, HEADS)
    with pytest.raises(AttachError, match="called twice in one forward pass"):
        model(x, x)
    handle.remove()
    handle = guide(model.encoder, HEADS)
    model(x, x)
    assert handle.loss() > 0


def test_attention_that_is_never_called():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = make_attention()

        def forward(self, x):
            return nn.functional.linear(x, self.attention.in_proj_weight)

    model = Around()
    guide(model, HEADS)
    with pytest.raises(AttachError, match=r"never called .* layers \[0\].* \(attention\)"):
        model(inputs_of())


def test_a_backend_that_cannot_serve():
    x, model = inputs_of(), make_attention()
    guide(model, HEADS, backend="blocked")
    model(x, x, x, need_weights=False)
    with pytest.raises(AttachError, match="eager attention, whose weights it may return"):
        model(x, x, x)
