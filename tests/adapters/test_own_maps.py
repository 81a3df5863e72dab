"""Encoders that compute their attention themselves: their maps are seen where they enter dropout."""

import copy
import math

import encoders
import pytest
import torch
import transformers
from eager_maps import assert_same_gradients
from torch import nn
from transformers import BertConfig, PreTrainedModel

from attention_guidance import get_guidance, guide
from attention_guidance.adapters.own_maps import MapAdapter
from attention_guidance.analysis import observing, take_census, without_heads
from attention_guidance.analysis.observe import attention_map
from attention_guidance.errors import AttachError, PatternError

HEADS = "next:1 previous:1 first:1"
NAMES = encoders.OWN_MAPS


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NAMES)
def test_log_mass_is_that_of_the_eager_maps(name):
    guided, inputs = encoders.make(name)
    handle = guide(guided, "next:1", weight=1.0, loss="log_mass")
    guided(**inputs)
    handle.loss().backward()
    plain, _ = encoders.make(name)
    valid = inputs["attention_mask"].bool()
    rows_BT = valid[:, :-1] & valid[:, 1:]
    maps = plain(**inputs, output_attentions=True).attentions
    expected = sum(-map_BHTT[:, 0].diagonal(1, -2, -1)[rows_BT].log().mean() for map_BHTT in maps)
    assert handle.loss().item() == pytest.approx(expected.item(), rel=1e-6)
    expected.backward()
    assert_same_gradients(guided, plain, 1e-6)


@pytest.mark.parametrize("name", ["DebertaV2", "RoFormer"])
def test_a_probability_of_zero_has_a_finite_log_mass(name):
    """The next token's probability underflows in one head only: a key that another head sees is not hidden."""
    model, inputs = encoders.make(name)
    handle = guide(model, "next:1", weight=1.0, loss="log_mass")
    heads = {}

    def sharpen(module, args):
        if args[0].dim() == 4 and args[0].shape[1] == 4:
            heads[module] = args[0]
            sharp = args[0].clone()
            sharp[:, 0] = torch.eye(args[0].shape[-1], dtype=sharp.dtype)
            return (sharp,)
        return None

    for part in model.modules():
        if isinstance(part, nn.Dropout):
            hook = part.register_forward_pre_hook(sharpen)
            part._forward_pre_hooks.move_to_end(hook.id, last=False)
    model(**inputs)
    loss = handle.loss()
    loss.backward()
    assert heads
    assert loss.item() == pytest.approx(2 * -math.log(torch.finfo(torch.float64).tiny))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert min(handle.rows_per_head()) > 0


def test_dropout_changes_the_output_and_not_the_map():
    """One layer: its map is before any dropout of attention probabilities, whose draw is the unguided model's."""
    sizes = encoders.TEXT["MPNet"] | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0}
    outputs, losses = [], []
    for dropout, guided in ((0.0, True), (0.4, True), (0.4, False)):
        torch.manual_seed(0)
        model = transformers.MPNetModel(transformers.MPNetConfig(**sizes, attention_probs_dropout_prob=dropout))
        model = model.double().train()
        inputs = {"input_ids": torch.arange(5, 25).view(2, 10)}
        handle = guide(model, HEADS, weight=1.0) if guided else None
        torch.manual_seed(1)
        outputs.append(model(**inputs)[0])
        losses.append(handle.loss().item() if guided else None)
    assert losses[0] == losses[1]
    assert torch.equal(outputs[1], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("name", ["DebertaV2", "RoFormer"])
def test_checkpointing_is_the_same_training(name):
    """Of two texts for one loss, each recomputed with its own targets."""
    found = []
    for checkpointing in (False, True):
        model, inputs = encoders.make(name)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        handle = guide(model, "given:2", weight=1.0)
        for step in (1, -2):
            targets = (torch.arange(10) + step).expand(3, 10)
            model(**inputs | {"input_ids": (inputs["input_ids"] + step) % 60, "guidance_targets": targets})
        loss = handle.loss()
        loss.backward()
        found.append((loss.item(), gradients_of(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, rtol=1e-9, atol=1e-12)


def test_reentrant_checkpointing_is_refused():
    model, inputs = encoders.make("DebertaV2")
    model.gradient_checkpointing_enable({"use_reentrant": True})
    guide(model, HEADS)
    with pytest.raises(AttachError, match="use_reentrant"):
        model(**inputs)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_and_measure(name):
    model, inputs = encoders.make(name)
    handle = guide(model, HEADS, weight=1.0)
    model(**inputs)
    assert handle.loss().item() > 0
    trained = [head.error for head in handle.per_head()]
    model.eval()
    with torch.no_grad():
        model(**inputs)
        assert handle.loss().item() == 0
        with handle.measure():
            model(**inputs)
    assert [head.error for head in handle.per_head()] == pytest.approx(trained, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_remove_leaves_no_trace(name):
    model, inputs = encoders.make(name)
    attributes = {key: set(module.__dict__) for key, module in model.named_modules()}
    handle = guide(model, HEADS)
    with pytest.raises(AttachError, match=r"guided already; call remove\(\)"):
        guide(model, HEADS)
    handle.remove()
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert {key: set(module.__dict__) for key, module in model.named_modules()} == attributes
    assert torch.equal(model(**inputs)[0], encoders.make(name)[0](**inputs)[0])
    guide(model, HEADS)


def test_a_copy_has_its_own_guidance():
    model, inputs = encoders.make("DebertaV2")
    handle = guide(model, HEADS, weight=1.0)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    model(**inputs)
    before = handle.loss().item()
    copied(**inputs)
    assert get_guidance(copied) is not handle
    assert get_guidance(copied).loss().item() != pytest.approx(before)
    assert handle.loss().item() == before


def test_a_model_is_copied_after_an_error():
    model, inputs = encoders.make("DebertaV2")
    guide(model, HEADS)
    attention = model.encoder.layer[1].attention.self
    hook = attention.register_forward_hook(lambda *_: 1 / 0, prepend=True)
    with pytest.raises(ZeroDivisionError):
        model(**inputs)
    hook.remove()
    copied = copy.deepcopy(model)
    copied(**inputs)
    assert get_guidance(copied).loss().item() > 0


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_one_token_are_not_taken_for_causal(name):
    """All that padding sees is the token before it."""
    model, inputs = encoders.make(name)
    mask = torch.zeros_like(inputs["attention_mask"])
    mask[:, 0] = 1
    guidance = guide(model, "first:1")
    model(**inputs | {"attention_mask": mask})
    assert guidance.rows_per_head() == [len(mask)] * len(guidance.heads)
    mask[:, 1] = 1
    model(**inputs | {"attention_mask": mask})
    guidance.loss().backward()


@pytest.mark.parametrize("name", ["MPNet", "RoFormer"])
def test_compiled_it_is_the_same(name):
    torch.compiler.reset()
    found = []
    for compiled in (False, True):
        model, inputs = encoders.make(name)
        handle = guide(model, HEADS, weight=1.0)
        called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        called(**inputs)
        loss = handle.loss()
        loss.backward()
        found.append((loss.item(), gradients_of(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, rtol=1e-9, atol=1e-12)
    torch.compiler.reset()


def test_other_backends_say_why_not():
    model, inputs = encoders.make("MPNet")
    guide(model, HEADS, backend="blocked")
    with pytest.raises(AttachError, match="computes its attention itself, and only its map is seen; reference can"):
        model(**inputs)


def test_the_number_of_heads_is_that_of_the_modules():
    """ConvBERT's attention has half of the heads in its configuration."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = transformers.ConvBertModel(transformers.ConvBertConfig(vocab_size=64, **sizes)).train()
    handle = guide(model, "next:2")
    model(input_ids=torch.arange(5, 25).view(2, 10))
    assert len(handle.per_head()) == 4
    handle.remove()
    with pytest.raises(PatternError, match="the model has 2 heads per layer"):
        guide(model, "next:3")


@pytest.mark.parametrize("name", NAMES)
def test_they_can_be_looked_at_and_not_ablated(name):
    model, inputs = encoders.make(name)
    model.eval()
    maps = model(**inputs, output_attentions=True).attentions
    seen = {}
    with observing(model, lambda layer, call: seen.update({layer: attention_map(call)}), once=True) as watched:
        watched(inputs)
    for layer, expected in enumerate(maps):
        torch.testing.assert_close(seen[layer], expected, rtol=1e-9, atol=1e-12)
    assert take_census(model, inputs, ["next"]) is not None
    with pytest.raises(AttachError, match="outputs of its heads cannot be replaced"), without_heads(model, [(0, 0)]):
        pass


class Attention(nn.Module):
    """Attention of one's own, which may do what guidance cannot serve."""

    def __init__(self, config, fault):
        super().__init__()
        self.fault, self.num_attention_heads = fault, config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dropout = nn.Dropout(0.0)

    def forward(self, hidden):
        split = self.qkv(hidden).unflatten(-1, (3, self.num_attention_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = split
        scores = query @ key.mT / 2
        if self.fault == "causal":
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
        if self.fault == "unnormalized":
            scores = self.dropout(scores)
        maps = scores.softmax(-1)
        if self.fault == "one map for all heads":
            maps = self.dropout(maps.mean(1, keepdim=True))
        elif self.fault not in ("no dropout", "unnormalized"):
            maps = self.dropout(maps)
        return (maps @ value).transpose(1, 2).flatten(2)


class Encoder(PreTrainedModel):
    config_class = BertConfig

    def __init__(self, config, fault=""):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Attention(config, fault) for _ in range(config.num_hidden_layers))

    def forward(self, input_ids):
        hidden = self.words(input_ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        return hidden


def own_encoder(fault):
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4)
    return Encoder(config, fault).train(), torch.arange(5, 25).view(2, 10)


def test_any_model_of_this_kind_can_be_guided():
    model, ids = own_encoder("")
    handle = guide(model, HEADS, weight=1.0)
    model(ids)
    handle.loss().backward()
    assert model.layers[0].qkv.weight.grad.any()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("causal", "Attention of layer 0 attends causally, and guidance is for bidirectional encoders"),
        ("unnormalized", "the rows of what enters the dropout of Attention of layer 0 do not sum to 1"),
        ("no dropout", "Attention of layer 0 cannot be guided: its dropout was given nothing of four dimensions"),
        (
            "one map for all heads",
            r"given a tensor of shape \(2, 1, 10, 10\), not the attention maps \[B, 4, T, T\]",
        ),
    ],
)
def test_what_is_no_map_of_an_encoder_is_an_error(fault, message):
    model, ids = own_encoder(fault)
    handle = guide(model, HEADS)
    with pytest.raises(AttachError, match=message):
        model(ids)
    handle.remove()
    with observing(model, lambda layer, call: None) as watched, pytest.raises(AttachError, match="cannot be looked at"):
        watched({"input_ids": ids})


def test_layers_with_different_numbers_of_heads_are_refused():
    model, _ = own_encoder("")
    model.layers[1].num_attention_heads = 2
    with pytest.raises(AttachError, match="its layers have 4, 2 heads"):
        MapAdapter(model)
