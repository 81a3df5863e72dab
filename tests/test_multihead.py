"""Models of torch's own nn.MultiheadAttention: guidance, all its gradients, and what is left alone."""

import copy
import inspect
import io

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attention_guidance import guide
from attention_guidance.errors import AttachError
from attention_guidance.hosts.multihead import GuidedForward

HEADS = "next:1 previous:1 first:1"
TARGETS = (1, -1, "first")
LENGTH, CHANNELS = 9, 16


def sharpened(model):
    """Random attention is next to uniform; sharper queries and keys make the loss and its gradient count."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.in_proj_weight[: 2 * CHANNELS] *= 4
                nn.init.normal_(module.in_proj_bias, std=0.3)
                nn.init.normal_(module.out_proj.bias)
    return model


def make_attention(**options):
    torch.manual_seed(0)
    return sharpened(nn.MultiheadAttention(CHANNELS, 4, **({"batch_first": True} | options))).train()


def make_encoder(batch_first=True, norm_first=False, dropout=0.0, n_layers=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(CHANNELS, 4, 24, dropout, batch_first=batch_first, norm_first=norm_first)
    nested = batch_first and not norm_first  # torch warns where it is asked for nested tensors and will not use them
    model = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=nested)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return sharpened(model).train()


def inputs_of(batch_first=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, LENGTH, CHANNELS, generator=generator, dtype=dtype)
    return x if batch_first else x.transpose(0, 1)


def padding():
    hidden = torch.zeros(3, LENGTH, dtype=torch.bool)
    hidden[1, 6:] = True
    hidden[2, :3] = True
    return hidden


def window():
    positions = torch.arange(LENGTH)
    return (positions[:, None] - positions).abs() > 3


def additive(hidden, dtype=torch.float64):
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, float("-inf"))


def slope(dtype=torch.float64):
    positions = torch.arange(LENGTH)
    return -0.1 * (positions[:, None] - positions).abs().to(dtype)


MASKS = {
    "none": (None, None),
    "padding": (padding(), None),
    "float padding": (additive(padding()), None),
    "window": (None, window()),
    "float window": (None, additive(window())),
    "both": (padding(), window()),
    "slope": (None, slope()),
    "slope and padding": (additive(padding()), slope()),
}


def keep_maps(model):
    """Have an unguided model keep the weights that its attention gives out, by head, in the list that is returned."""
    maps = []

    def keeping(module):
        def forward(query, key, value, need_weights=True, average_attn_weights=True, **kwargs):
            out, map_BHQK = nn.MultiheadAttention.forward(
                module, query, key, value, need_weights=True, average_attn_weights=False, **kwargs
            )
            maps.append(map_BHQK)
            return out, map_BHQK.mean(1) if average_attn_weights else map_BHQK

        return forward

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.forward = keeping(module)
    return maps


def expected_guidance(maps, hidden, cut=None, objective="squared_error"):
    """Mean over rows, summed over layers and heads, by the definition."""
    total = 0
    for map_BHQK in maps:
        for head, target in enumerate(TARGETS):
            rows = []
            for b in range(map_BHQK.shape[0]):
                tokens = [i for i in range(LENGTH) if hidden is None or not hidden[b, i]]
                for i in tokens:
                    key = tokens[0] if target == "first" else i + target
                    if key in tokens and not (cut is not None and cut[i, key]):
                        row = map_BHQK[b, head, i]
                        squared = row.square().sum() - 2 * row[key] + 1
                        rows.append(squared if objective == "squared_error" else -row[key].log())
            total = total + torch.stack(rows).mean()
    return total


def hidden_by(key_padding_mask, attn_mask):
    """The padding and the pairs that masks hide, bool."""
    cut = attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask == float("-inf")
    if key_padding_mask is None or key_padding_mask.dtype == torch.bool:
        return key_padding_mask, cut
    return key_padding_mask == float("-inf"), cut


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


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
        taken = "reference" if need_weights or "slope" in masks else "blocked"
        assert f"{taken}: taken" in handle.explain_backend()


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("backend", ["reference", "auto", "flash"])
@pytest.mark.parametrize("masks", ["none", "padding", "float padding", "window", "both"])
def test_encoder_against_its_own_maps(masks, backend, batch_first, norm_first, objective):
    key_padding_mask, attn_mask = MASKS[masks]
    x = inputs_of(batch_first, torch.float64)

    def call(model):
        return model(x, mask=attn_mask, src_key_padding_mask=key_padding_mask)

    handle = compare(lambda: make_encoder(batch_first, norm_first), call, MASKS[masks], backend, objective)
    if backend == "auto":
        assert "blocked: taken" in handle.explain_backend(), "masks that only hide are served by all backends"


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


class Tagger(nn.Module):
    """A model as people write them, with the arguments and the loss that transformers' models have."""

    def __init__(self, n_tags=5, checkpointed=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, CHANNELS)
        self.positions = nn.Parameter(torch.randn(LENGTH, CHANNELS))
        self.encoder = make_encoder()
        self.head = nn.Linear(CHANNELS, n_tags)
        self.checkpointed = checkpointed

    def embedded(self, input_ids):
        return self.embed(input_ids) + self.positions

    def forward(self, input_ids, attention_mask=None, labels=None):
        x = self.embedded(input_ids)
        hidden = None if attention_mask is None else ~attention_mask.bool()
        if self.checkpointed:
            x = checkpoint(self.encoder, x, None, hidden, use_reentrant=False)
        else:
            x = self.encoder(x, src_key_padding_mask=hidden)
        logits = self.head(x)
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def tagged():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 32, (3, LENGTH), generator=generator)
    return {"input_ids": ids, "attention_mask": (~padding()).long(), "labels": ids % 5}


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
    assert isinstance(model.layers[1].self_attn.forward, GuidedForward)
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


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("make", [make_encoder, make_attention])
def test_copies_are_guided_models_of_their_own(make, way):
    x = inputs_of()
    model = make()
    handle = guide(model, HEADS, weight=0.5)
    arguments = (x,) if make is make_encoder else (x, x, x)
    first_of(model(*arguments)).sum().backward()
    if way == "deepcopy":
        other = copy.deepcopy(model)
    else:
        file = io.BytesIO()
        torch.save(model, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    begin = next(hook for hook in other._forward_pre_hooks.values() if inspect.ismethod(hook))
    other_handle = begin.__self__
    assert other_handle is not handle
    handle.remove()
    attention = [module for module in other.modules() if isinstance(module, nn.MultiheadAttention)]
    assert all(module.forward.module is module for module in attention)
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


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = make_encoder()

    def forward(self, x, y):
        return self.encoder(x) + self.encoder(y)


class TestErrors:
    def test_what_can_be_guided(self):
        with pytest.raises(AttachError, match=r"Linear cannot be guided.*PreTrainedModel.*nn\.MultiheadAttention"):
            guide(nn.Linear(2, 2), HEADS)

    def test_a_wrapped_model_of_transformers(self, make_model):
        wrapped = nn.ModuleDict({"encoder": make_model(), "pool": make_attention()})
        with pytest.raises(AttachError, match=r"its encoder \(RobertaForMaskedLM\) is a model of transformers"):
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
    def test_options(self, options, message):
        with pytest.raises(AttachError, match=message):
            guide(nn.MultiheadAttention(CHANNELS, 4, **options), HEADS)

    def test_numbers_of_heads_that_differ(self):
        model = nn.Sequential(nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 4))
        with pytest.raises(AttachError, match="0 has 2 heads and 1 has 4"):
            guide(model, "next:1")

    def test_decoders(self):
        for model in (nn.Transformer(8, 2, 1, 1, 8, batch_first=True), nn.TransformerDecoderLayer(8, 2)):
            with pytest.raises(AttachError, match="is a decoder's layer"):
                guide(model, "next:1")
        assert guide(nn.Transformer(8, 2, 1, 1, 8, batch_first=True).encoder, "next:1")

    def test_twice(self):
        model = make_encoder()
        guide(model, HEADS)
        with pytest.raises(AttachError, match=r"guided already; call remove\(\)"):
            guide(model, HEADS)
        with pytest.raises(AttachError, match="guided already"):
            guide(model.layers[0], HEADS)

    def test_a_forward_of_its_own(self):
        class Other(nn.MultiheadAttention):
            def forward(self, *args, **kwargs):
                return super().forward(*args, **kwargs)

        with pytest.raises(AttachError, match=r"\(Other\) has a forward of its own"):
            guide(Other(8, 2), "next:1")
        model = make_attention()
        model.forward = lambda *args: None
        with pytest.raises(AttachError, match="has a forward of its own"):
            guide(model, HEADS)

    def test_a_refused_guide_changes_nothing(self):
        model = make_encoder()
        with pytest.raises(ValueError, match="heads"):
            guide(model, "next:9")
        assert model.use_nested_tensor
        assert "forward" not in model.layers[0].self_attn.__dict__
        assert not model._forward_hooks

    def test_calls(self):
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

    def test_a_causal_encoder(self):
        model = make_encoder()
        guide(model, HEADS)
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        with pytest.raises(AttachError, match=r"layers\.0\.self_attn attends causally"):
            model(inputs_of(), mask=mask)

    def test_two_calls_in_one_pass(self):
        model, x = Twice(), inputs_of()
        handle = guide(model, HEADS)
        with pytest.raises(AttachError, match="called twice in one forward pass"):
            model(x, x)
        handle.remove()
        handle = guide(model.encoder, HEADS)
        model(x, x)
        assert handle.loss() > 0

    def test_attention_that_is_never_called(self):
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

    def test_a_backend_that_cannot_serve(self):
        x, model = inputs_of(), make_attention()
        guide(model, HEADS, backend="blocked")
        model(x, x, x, need_weights=False)
        with pytest.raises(AttachError, match="eager attention, whose weights it may give out"):
            model(x, x, x)
