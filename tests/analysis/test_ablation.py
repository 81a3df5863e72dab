"""Ablated heads against models that are changed by hand, and greedy removal against repeated brute force."""

from __future__ import annotations

import copy
import itertools
import sys

import encoders
import multihead
import numpy as np
import pytest
import torch
import transformers

from attention_guidance import guide
from attention_guidance.analysis import ablate, take_census, without_heads
from attention_guidance.analysis.ablation import Ablation, label_losses
from attention_guidance.errors import AttachError, ConfigError, PatternError

# Where the output projection of a layer's attention is.
PROJECTIONS = {
    "Bert": "bert.encoder.layer.{}.attention.output.dense",
    "Roberta": "roberta.encoder.layer.{}.attention.output.dense",
    "ModernBert": "model.layers.{}.attn.Wo",
    "DistilBert": "distilbert.transformer.layer.{}.attention.out_lin",
    "Esm": "esm.encoder.layer.{}.attention.output.dense",
    "Electra": "electra.encoder.layer.{}.attention.output.dense",
}
N_HEADS = 4


def masked_lm(name, seed=0):
    """A random masked language model in double precision with sharp attention, and two batches with padding."""
    torch.manual_seed(seed)
    config = getattr(transformers, f"{name}Config")(**encoders.TEXT[name])
    model = transformers.AutoModelForMaskedLM.from_config(config).double().train()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(8 if any(part in key for part in ("query", "key", "q_lin", "k_lin", "Wqkv")) else 3)
    batches = []
    for _ in range(2):
        ids, mask = torch.randint(5, 60, (3, 10)), torch.ones(3, 10, dtype=torch.long)
        ids[1, 8:], mask[1, 8:] = 1, 0
        labels = ids.masked_fill((torch.rand(3, 10) < 0.5) | (mask == 0), -100)
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return model, batches


def losses_by_hand(model, batches):
    """The loss of each sequence, added up, and the number of labels."""
    model.eval()
    sums, counts = [], []
    for batch in batches:
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for row, labels in zip(logits.log_softmax(-1), batch["labels"], strict=True):
            at = (labels != -100).nonzero().flatten()
            sums.append(float(-row[at, labels[at]].sum()))
            counts.append(len(at))
    return np.array(sums), np.array(counts)


def loss_by_hand(model, batches):
    sums, counts = losses_by_hand(model, batches)
    return sums.sum() / counts.sum()


def projection(model, name, layer):
    return model.get_submodule(PROJECTIONS[name].format(layer))


def put_out(module, head, value):
    """Set the part of a head in what the output projection is given."""

    def change(module, args):
        out = args[0].clone()
        width = out.shape[-1] // N_HEADS
        out[..., head * width : (head + 1) * width] = value
        return (out, *args[1:])

    return module.register_forward_pre_hook(change)


def n_layers(model):
    return model.config.num_hidden_layers


@pytest.mark.parametrize("name", PROJECTIONS)
def test_zero_is_zero_at_the_output_projection(name):
    model, batches = masked_lm(name)
    found = ablate(model, batches)
    base = loss_by_hand(model, batches)
    assert float(found.loss.value) == pytest.approx(base, abs=1e-10)
    assert found.difference.value.shape == (n_layers(model), N_HEADS)
    for layer, head in itertools.product(range(n_layers(model)), range(N_HEADS)):
        hook = put_out(projection(model, name, layer), head, 0)
        assert found.difference.value[layer, head] == pytest.approx(loss_by_hand(model, batches) - base, abs=1e-9)
        hook.remove()
    assert np.ptp(found.difference.value) > 1e-3  # heads matter


@pytest.mark.parametrize("name", ["Bert", "ModernBert", "DistilBert"])
def test_mean_is_the_mean_over_all_tokens(name):
    model, batches = masked_lm(name)
    found = ablate(model, batches, "mean")
    base = loss_by_hand(model, batches)
    for layer in range(n_layers(model)):
        kept = []
        module = projection(model, name, layer)
        hook = module.register_forward_pre_hook(lambda module, args, kept=kept: kept.append(args[0]))
        loss_by_hand(model, batches)
        hook.remove()
        total, count = 0, 0
        for outputs, batch in zip(kept, batches, strict=True):
            outputs = outputs.reshape(*batch["input_ids"].shape, -1)
            for b, i in batch["attention_mask"].nonzero().tolist():
                total, count = total + outputs[b, i], count + 1
        for head in range(N_HEADS):
            mean = (total / count).reshape(N_HEADS, -1)[head]
            hook = put_out(module, head, mean)
            assert found.difference.value[layer, head] == pytest.approx(loss_by_hand(model, batches) - base, abs=1e-9)
            hook.remove()
            with without_heads(model, [(layer, head)], "mean", batches=batches):
                inside = loss_by_hand(model, batches)
            assert inside - base == pytest.approx(found.difference.value[layer, head], abs=1e-9)


TARGETS = {
    "next": lambda i, valid: [i + 1],
    "previous": lambda i, valid: [i - 1],
    "first": lambda i, valid: [0],
    "next|first": lambda i, valid: [i + 1, 0],
}


@pytest.mark.parametrize("pattern", TARGETS)
@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert"])
def test_a_pattern_is_a_map_replaced_by_hand(name, pattern, monkeypatch):
    model, batches = masked_lm(name)
    found = ablate(model, batches, pattern)
    model.set_attn_implementation("eager")
    modeling = sys.modules[type(model).__module__]
    at = {"calls": 0, "layer": None, "head": None}

    def attention(module, query, key, value, attention_mask, scaling=None, **more):
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        maps = (scores if attention_mask is None else scores + attention_mask).softmax(-1)
        if at["calls"] % n_layers(model) == at["layer"]:
            allowed = maps[:, 0] > 0
            for b, i in itertools.product(range(len(maps)), range(maps.shape[2])):
                keys = TARGETS[pattern](i, None)
                keys = [j for j in keys if 0 <= j < maps.shape[3] and allowed[b, i, j]]
                if keys:
                    maps[b, at["head"], i] = 0
                    maps[b, at["head"], i, keys] = 1 / len(keys)
        at["calls"] += 1
        return (maps @ value).transpose(1, 2).contiguous(), maps

    monkeypatch.setattr(modeling, "eager_attention_forward", attention)
    base = loss_by_hand(model, batches)
    assert float(found.loss.value) == pytest.approx(base, abs=1e-9)
    for layer, head in itertools.product(range(n_layers(model)), range(N_HEADS)):
        at |= {"calls": 0, "layer": layer, "head": head}
        assert found.difference.value[layer, head] == pytest.approx(loss_by_hand(model, batches) - base, abs=1e-9)
    assert np.ptp(found.difference.value) > 1e-3


def test_a_pattern_of_each_head():
    model, batches = masked_lm("Bert")
    places = list(itertools.product(range(2), range(N_HEADS)))
    of_heads = {place: ("next", "first")[number % 2] for number, place in enumerate(places)}
    found = ablate(model, batches, of_heads).difference.value
    for name in ("next", "first"):
        of_one = ablate(model, batches, name).difference.value
        for place in places:
            assert (found[place] == of_one[place]) == (of_heads[place] == name)


@pytest.mark.parametrize("batch_first", [True, False])
def test_torchs_own_attention(batch_first):
    """Against output projections whose columns of the head are zero."""
    model, x = multihead.make_encoder(batch_first, n_layers=2).double(), multihead.inputs_of(batch_first, torch.double)
    hidden = multihead.padding()

    def measure(model, batch):
        out = model(batch["src"], src_key_padding_mask=batch["hidden"])
        out = out if batch_first else out.transpose(0, 1)
        return out.pow(2)[..., :3].masked_fill(batch["hidden"][..., None], 0).sum((1, 2)), (~batch["hidden"]).sum(1)

    found = ablate(model, {"src": x, "hidden": hidden}, measure=measure)
    for layer, head in itertools.product(range(2), range(N_HEADS)):
        by_hand = copy.deepcopy(model).eval()
        with torch.no_grad():
            width = multihead.CHANNELS // N_HEADS
            by_hand.layers[layer].self_attn.out_proj.weight[:, head * width : (head + 1) * width] = 0
            sums, counts = measure(by_hand, {"src": x, "hidden": hidden})
        expected = float(sums.sum() / counts.sum())
        assert float(found.loss.value) + found.difference.value[layer, head] == pytest.approx(expected, abs=1e-10)
    assert np.ptp(found.difference.value) > 1e-3


# Layers that share weights, a bias on the scores, keys that heads share: the output projections of their attention.
OTHERS = {
    "Albert": "attention.dense",
    "T5": "SelfAttention.o",
    "EuroBert": "self_attn.o_proj",
    "NomicBert": "self_attn.o_proj",
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_encoder(name):
    """Against the part of the head in the n-th call of an output projection in a forward pass."""
    model, inputs = encoders.make(name)

    def measure(model, batch):
        out = model(**batch).last_hidden_state[..., 0]
        return out.masked_fill(batch["attention_mask"] == 0, 0).sum(-1), batch["attention_mask"].sum(-1)

    found = ablate(model, inputs, measure=measure)
    assert np.ptp(found.difference.value) > 1e-3
    model.eval()
    for layer, head in itertools.product(*map(range, found.difference.value.shape)):
        calls = []

        def change(module, args, layer=layer, head=head, calls=calls):
            calls.append(1)
            out, width = args[0].clone(), args[0].shape[-1] // N_HEADS
            if len(calls) == layer + 1:
                out[..., head * width : (head + 1) * width] = 0
            return (out,)

        modules = [module for key, module in model.named_modules() if key.endswith(OTHERS[name])]
        hooks = [module.register_forward_pre_hook(change) for module in modules]
        with torch.no_grad():
            sums, counts = measure(model, inputs)
        assert len(calls) == len(found.difference.value)
        for hook in hooks:
            hook.remove()
        expected = float(sums.sum() / counts.sum()) - float(found.loss.value)
        assert found.difference.value[layer, head] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("to", ["zero", "mean", "previous"])
def test_greedy_is_repeated_brute_force(to):
    model, batches = masked_lm("Roberta")
    found = ablate(model, batches, to, greedy=8)
    removed, left = [], set(itertools.product(range(2), range(N_HEADS)))
    for number in range(8):
        losses = {}
        for place in sorted(left):
            with without_heads(model, [*removed, place], to, batches=batches):
                losses[place] = loss_by_hand(model, batches)
        best = min(losses, key=losses.get)
        assert found.order[number] == best
        assert float(found.loss.value) + found.curve.value[number] == pytest.approx(losses[best], abs=1e-9)
        removed.append(best)
        left.remove(best)
    assert found.order != tuple(sorted(found.order))
    few = ablate(model, batches, to, greedy=3)
    assert few.order == found.order[:3]
    np.testing.assert_array_equal(few.curve.value, found.curve.value[:3])


def state(model):
    hooks = [
        (name, len(module._forward_hooks), len(module._forward_pre_hooks), module.training, [*vars(module)])
        for name, module in model.named_modules()
    ]
    return hooks, getattr(getattr(model, "config", None), "_attn_implementation", None)


@pytest.mark.parametrize("make", ["interface", "multihead", "failing"])
def test_the_model_is_as_it_was(make):
    if make == "multihead":
        model, given = multihead.make_encoder(), {"src": multihead.inputs_of()}

        def measure(model, batch):
            out = model(**batch)
            return out.sum((1, 2)), torch.ones(len(out))

    else:
        (model, (batch, _)), measure = masked_lm("ModernBert"), label_losses
        given = batch
    expected = measure(model.eval(), given)[0].detach()
    model.train()
    [*model.modules()][-1].eval()  # a frozen part keeps its mode
    before, parameters = state(model), copy.deepcopy(model.state_dict())
    if make == "failing":
        with pytest.raises(ConfigError, match="no labels"):
            ablate(model, {"input_ids": given["input_ids"]}, "mean")
    else:
        ablate(model, given, "mean", measure=measure, greedy=2)
        with without_heads(model, [(0, 0)], "next"):
            pass
    assert state(model) == before
    assert torch.equal(measure(model.eval(), given)[0].detach(), expected)
    assert all(torch.equal(x, parameters[name]) for name, x in model.state_dict().items())
    guide(model, "next:1").remove()


def test_intervals_are_over_sequences_and_paired():
    model, batches = masked_lm("Bert")
    few = ablate(model, batches)
    assert np.isnan(few.difference.low).all()  # six sequences
    found = ablate(model, batches * 4, seed=3)
    np.testing.assert_allclose(found.difference.value, few.difference.value, atol=1e-12)
    assert (found.difference.low <= found.difference.value).all()
    assert (found.difference.value <= found.difference.high).all()
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 24, (4000, 24))
    values = found.added_NLH[:, 1, 2][drawn].sum(1) / found.counts_N[drawn].sum(1)
    low, high = np.percentile(values, [2.5, 97.5])
    assert found.difference.low[1, 2] == pytest.approx(low, abs=0.05 * (high - low))
    assert found.difference.high[1, 2] == pytest.approx(high, abs=0.05 * (high - low))
    weights = np.full((2, N_HEADS), -1 / 6)
    weights[0, :2] = 1 / 2
    values = found.difference.value
    gap = values[0, :2].mean() - np.concatenate([values[0, 2:], values[1]]).mean()
    assert float(found.weighted(weights).value) == pytest.approx(gap)


def test_bad_input():
    model, batches = masked_lm("Bert")
    unlabelled = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    for arguments, more, error, message in [
        ([[]], {}, ConfigError, "batches is empty"),
        ([unlabelled], {}, ConfigError, "no labels"),
        ([{**batches[0], "labels": torch.full((3, 10), -100)}], {}, ConfigError, "all of them are -100"),
        ([batches, "nxt"], {}, PatternError, "to='nxt' must be zero, mean or a pattern: unknown pattern 'nxt'"),
        ([batches, "class_token"], {}, PatternError, "class token"),
        ([batches, "offset:10"], {}, PatternError, r"to='offset:10': no query has a target of it in layers \[0, 1\]"),
        ([batches, {(0, 0): "next"}], {}, ConfigError, "no pattern for layer 0, head 1"),
        ([batches], {"greedy": 9}, ConfigError, "greedy=9: BertForMaskedLM has 8 heads to remove"),
        ([batches], {"greedy": 1.5}, ConfigError, "greedy=1.5 must be an integer of at least 0"),
        ([batches], {"greedy": "2"}, ConfigError, "greedy='2' must be an integer"),
        ([batches], {"seed": -1}, ConfigError, "seed=-1 must be an integer of at least 0"),
        ([batches], {"resamples": 0}, ConfigError, "resamples=0 must be an integer of at least 1"),
        ([batches], {"measure": lambda *_: torch.tensor(1.0)}, ConfigError, "must return two tensors"),
        ([batches], {"measure": lambda *_: (torch.ones(3), 3)}, ConfigError, "must return two tensors"),
        ([batches], {"measure": lambda *_: (torch.ones(3), torch.ones(2))}, ConfigError, "must return two tensors"),
    ]:
        with pytest.raises(error, match=message):
            ablate(model, *arguments, **more)
    for heads in ([(2, 0)], [(0, 4)], [(-1, 0)], [0], [(0, 1, 2)], [(0.5, 1)], (0, 1)):
        with pytest.raises(ConfigError, match=r"no \(layer, head\) of this model: BertForMaskedLM has 2 layers of 4"):
            without_heads(model, heads).__enter__()
    with pytest.raises(ConfigError, match="heads=3: give"):
        without_heads(model, 3).__enter__()
    with pytest.raises(ConfigError, match="heads is empty"):
        without_heads(model, []).__enter__()
    with pytest.raises(ConfigError, match="give at least one batch"):
        without_heads(model, [(0, 0)], "mean").__enter__()
    with pytest.raises(AttachError, match="called alone"), without_heads(model, [(0, 0)], "next"):
        model.bert(**unlabelled)
    guidance = guide(model, "next:1")
    with pytest.raises(AttachError, match="guided already"):
        ablate(model, batches)
    guidance.remove()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="loss is not finite"):
        ablate(model, batches)
    outside, inputs = encoders.make("DebertaV2")
    with pytest.raises(AttachError, match=r"cannot be\s+ablated"):
        ablate(outside, inputs)


def test_sequences_without_a_loss_are_in_no_resample():
    """Ten of 110 sequences have labels: one resample in 30,000 would have none, and its mean would be NaN."""
    rng = np.random.default_rng(0)
    sums_N, added_NLH, counts_N = rng.normal(size=10), rng.normal(size=(10, 1, 1)), np.full(10, 3.0)
    few = Ablation(sums_N, counts_N, added_NLH, (), np.empty((10, 0)))
    more = [np.concatenate([x, np.zeros((100, *x.shape[1:]))]) for x in (sums_N, counts_N, added_NLH)]
    found = Ablation(*more, (), np.empty((110, 0)))
    for name in ("value", "low", "high"):
        assert np.isfinite(getattr(few.difference, name))
        assert getattr(found.difference, name) == getattr(few.difference, name)
    nine = Ablation(*(np.delete(x, 0, 0) for x in more), (), np.empty((109, 0)))
    assert np.isnan(nine.difference.low)


def test_heads_may_be_rows_of_an_array():
    """As `np.argwhere` gives the heads whose difference is small."""
    model, batches = masked_lm("Bert")
    results = []
    for heads in ([(0, 1), (1, 3)], np.array([[0, 1], [1, 3]]), torch.tensor([[0, 1], [1, 3]])):
        with without_heads(model, heads), torch.no_grad():
            results.append(model(**batches[0]).logits)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("make", ["interface", "multihead"])
def test_a_model_without_heads_is_said_to_be_so(make):
    """Not to be guided: there is no guidance to remove. The outer block stays as it is."""
    model, batch = multihead.make_encoder(n_layers=2), {"src": multihead.inputs_of()}
    if make == "interface":
        model, (batch, _) = masked_lm("Bert")

    def output():
        found = model(**batch)
        return getattr(found, "logits", found)

    with without_heads(model, [(0, 0)]), torch.no_grad():
        before = output()
        with pytest.raises(AttachError, match=r"has heads removed already; leave the with block of without_heads\(\)"):
            without_heads(model, [(1, 0)]).__enter__()
        with pytest.raises(AttachError, match="has heads removed already"):
            guide(model, "next:1")
        assert torch.equal(output(), before)


def test_attention_that_is_never_called_is_an_error():
    model, batches = masked_lm("Bert")
    skipped = model.bert.encoder.layer[1].attention
    skipped.forward = lambda hidden, *_, **__: (hidden, None)
    with pytest.raises(AttachError, match=r"never called the attention of layers \[1\]"):
        ablate(model, batches)
    del skipped.forward
    assert len(take_census(model, batches[0], "next").followed()) == 2


def test_gradients_pass_through_the_heads_that_are_left():
    model, (batch, _) = masked_lm("Bert")
    with without_heads(model, [(0, 1)]):
        model(**batch).loss.backward()
    gradient = model.bert.encoder.layer[0].attention.self.value.weight.grad.reshape(N_HEADS, -1)
    assert (gradient[1] == 0).all()
    assert (gradient[[0, 2, 3]].abs().sum(1) > 0).all()
