"""match_heads(): the heads nearest to their patterns, against exhaustive search, and a model left as it was."""

import copy
import itertools
import math

import encoders
import numpy as np
import pytest
import torch
from torch import nn

from attention_guidance import GuidedHead, guide, match_heads
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.patterns import Custom, First, Offset

NEXT, PREVIOUS, FIRST = Offset(1), Offset(-1), First()
SMALL = {"num_hidden_layers": 2}
LENGTH = 12


def oracle(model, batches, name, objective="squared_error"):
    """The mean error over rows of each (layer, head), from the maps that the model's own eager attention gives out."""
    model = copy.deepcopy(model).eval()
    model.set_attn_implementation("eager")
    rows = []
    for batch in batches:
        valid = batch["attention_mask"].bool()
        with torch.no_grad():
            maps_LBHQK = torch.stack(model(**batch, output_attentions=True).attentions)
        for b in range(len(valid)):
            positions = valid[b].nonzero().flatten().tolist()
            for i in positions:
                target = positions[0] if name == "first" else i + {"next": 1, "previous": -1}[name]
                if target in positions:
                    row_LHK = maps_LBHQK[:, b, :, i]
                    squared = row_LHK.square().sum(-1) - 2 * row_LHK[..., target] + 1
                    rows.append(squared if objective == "squared_error" else -row_LHK[..., target].log())
    return torch.stack(rows).mean(0)


def least(errors, names, places):
    """The least total error of giving every name a place of its own, by trying all ways."""
    return min(
        sum(errors[name][place].item() for name, place in zip(names, chosen, strict=True))
        for chosen in itertools.permutations(places, len(names))
    )


def split(batch):
    """Two batches of different sizes, so that the mean over rows is not the mean over batches."""
    return [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(3), slice(3, 5))]


def started_at(model, matching, batches, **settings):
    """Mean error of a model guided as matched, from the handle."""
    handle = guide(model, matching.heads, **settings)
    with handle.measure(), torch.no_grad():
        for batch in batches:
            model.eval()(**batch)
    handle.remove()
    return sum(head.error for head in handle.per_head()) / len(handle.per_head())


@pytest.fixture
def planted(make_model):
    """A BERT that attends by position alone: previous at layer 0, head 2; next at (1, 3); first at (1, 0).

    No other head has a direction: its attention is uniform.
    """
    model = make_model("bert", hidden_size=64).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Layers that add nothing, so that each sees the embeddings.
            if name.endswith("output.dense.weight") or "word_embeddings" in name or ".query." in name:
                parameter.zero_()
        model.bert.embeddings.position_embeddings.weight.normal_()
        positions_TC = model.bert.embeddings(input_ids=torch.zeros(1, LENGTH, dtype=torch.long))[0]
        to_position_TC = torch.linalg.pinv(positions_TC.double()).T.float()
        to_next_TC, to_previous_TC = to_position_TC.roll(1, 0), to_position_TC.roll(-1, 0)
        to_first_TC = torch.zeros_like(to_position_TC)
        to_first_TC[0] = to_position_TC.sum(0)
        for layer, head, query_TC in ((0, 2, to_previous_TC), (1, 3, to_next_TC), (1, 0, to_first_TC)):
            attention = model.bert.encoder.layer[layer].attention.self
            start = head * 16
            attention.key.weight[start : start + LENGTH] = to_position_TC
            attention.key.weight[start + LENGTH : start + 16] = 0
            attention.query.weight[start : start + LENGTH] = 60 * query_TC
    return model


@pytest.fixture
def unpadded(batch):
    return [{"input_ids": batch["input_ids"][:2]}]


def test_planted_heads_are_found(planted, unpadded):
    matching = match_heads(planted, "0: next:1 previous:1 first:1", unpadded, across_layers=True)
    assert matching.heads == {0: {PREVIOUS: [2]}, 1: {FIRST: [0], NEXT: [3]}}
    assert matching.error < 0.01
    assert matching.default_error > 0.9
    within = match_heads(planted, "0: previous:1; 1: first:1 next:1", unpadded)
    assert within.heads == matching.heads


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
@pytest.mark.parametrize("seed", range(3))
def test_least_of_all_assignments_within_each_layer(make_model, batch, seed, objective):
    model, batches = make_model(seed=seed, **SMALL), split(batch)
    matching = match_heads(model, "next:1 previous:1 first:2", batches, loss=objective)
    errors = {name: oracle(model, batches, name, objective) for name in ("next", "previous", "first")}
    for pattern, ours in matching.errors.items():
        assert ours.shape == (2, 4)
        torch.testing.assert_close(ours.float(), errors[pattern.name], rtol=1e-5, atol=1e-6)
    names = ["next", "previous", "first", "first"]
    total = sum(least(errors, names, [(layer, head) for head in range(4)]) for layer in range(2))
    written = sum(errors[name][:, head].sum().item() for head, name in enumerate(names))
    assert matching.error == pytest.approx(total / 8, rel=1e-5)
    assert matching.default_error == pytest.approx(written / 8, rel=1e-5)
    assert matching.error < matching.default_error
    assert [sorted(map(str, matching.heads[layer])) for layer in range(2)] == [["first", "next", "previous"]] * 2
    assert started_at(model, matching, batches, loss=objective) == pytest.approx(matching.error, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_least_of_all_assignments_across_layers(make_model, batch, seed):
    model, batches = make_model(seed=seed, **SMALL), split(batch)
    matching = match_heads(model, "0: next:1 previous:1; 1: next:1 first:1", batches, across_layers=True)
    errors = {name: oracle(model, batches, name) for name in ("next", "previous", "first")}
    places = list(itertools.product(range(2), range(4)))
    total = least(errors, ["next", "next", "previous", "first"], places)
    assert matching.error == pytest.approx(total / 4, rel=1e-5)
    assert sorted(head.pattern.name for head in matching.guided) == ["first", "next", "next", "previous"]
    within = match_heads(model, "0: next:1 previous:1; 1: next:1 first:1", batches)
    assert matching.error <= within.error <= within.default_error == matching.default_error
    assert started_at(model, matching, batches) == pytest.approx(matching.error, rel=1e-6)


@pytest.mark.parametrize("across_layers", [False, True])
def test_heads_given_by_their_number_stay(planted, unpadded, across_layers):
    """The head that follows `next` is taken by another pattern, and a `next` stands where nothing does."""
    heads = {0: {"next": [1], "previous": 1}, 1: {"first": [np.int64(3)], "next": 1}}
    matching = match_heads(planted, heads, unpadded, across_layers=across_layers)
    assert {GuidedHead(0, 1, NEXT), GuidedHead(1, 3, FIRST)} <= set(matching.guided)
    assert GuidedHead(0, 2, PREVIOUS) in matching.guided
    assert len(matching.guided) == 4
    fixed = match_heads(planted, "next@0 first@1", unpadded)
    assert fixed.heads == {layer: {NEXT: [0], FIRST: [1]} for layer in range(3)}
    assert fixed.error == fixed.default_error


def test_a_tie_goes_to_the_assignment_as_written(planted, unpadded):
    """Heads 0, 1 and 3 of layer 0 attend uniformly; nothing is gained by a move, so none is made."""
    matching = match_heads(planted, "0: next:1 first:1", unpadded)
    assert matching.heads == {0: {NEXT: [0], FIRST: [1]}}
    assert matching.error == matching.default_error
    # Layers 0 and 2 are alike to it, too.
    last = match_heads(planted, "2: offset:3:1", unpadded, across_layers=True)
    assert last.errors[Offset(3)][0, 0] == last.errors[Offset(3)][2, 0]
    assert last.heads == {2: {Offset(3): [0]}}
    every = match_heads(planted, "first:1.0", unpadded, across_layers=True)
    assert every.heads == {layer: {FIRST: [0, 1, 2, 3]} for layer in range(3)}
    assert every.error == every.default_error


def test_a_generator_is_read_once_and_counts_in_full(make_model, batch):
    model, batches = make_model(**SMALL), split(batch)
    whole = match_heads(model, "next:1 first:1", batches)
    streamed = match_heads(model, "next:1 first:1", (one for one in batches))
    assert streamed.guided == whole.guided
    assert all(torch.equal(streamed.errors[pattern], whole.errors[pattern]) for pattern in (NEXT, FIRST))
    part = match_heads(model, "next:1 first:1", batches[:1])
    assert not torch.equal(part.errors[NEXT], whole.errors[NEXT])


class Failing(nn.Module):
    def forward(self, hidden):
        raise RuntimeError("in the middle of a pass")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(make_model, batch, base, fails):
    model = make_model(attn_implementation=base, hidden_dropout_prob=0.3)
    model.roberta.embeddings.eval()  # a frozen part keeps a mode of its own
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    config = model.config.to_dict()
    attributes = [set(module.__dict__) for module in model.modules()]
    torch.manual_seed(3)
    before = model(**batch)
    torch.manual_seed(3)
    if fails:
        whole, model.lm_head = model.lm_head, Failing()
        with pytest.raises(RuntimeError, match="in the middle"):
            match_heads(model, "next:1", [batch])
        model.lm_head = whole
    else:
        match_heads(model, "next:1 previous:1", [batch])
    after = model(**batch)
    assert torch.equal(before.loss, after.loss)
    assert torch.equal(before.logits, after.logits)
    assert [module.training for module in model.modules()] == modes
    assert [set(module.__dict__) for module in model.modules()] == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model.config.to_dict() == config
    assert model.config._attn_implementation == base
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_is_measured_without_dropout_and_gradients(make_model, batch):
    dropping = make_model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    with_dropout, without = (match_heads(model, "next:1", [batch]) for model in (dropping, make_model()))
    assert torch.equal(with_dropout.errors[NEXT], without.errors[NEXT])
    gradients = []
    dropping.register_forward_pre_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    match_heads(dropping, "next:1 first:1", [batch])
    assert gradients == [False, False]


def test_patterns_of_ones_own_and_classes(make_model, batch):
    """Guiding as matched needs neither the tokenizer's classes nor the names again; equal names do not mix."""
    model = make_model()
    near, far = (Custom("mine", lambda s, k=k: Offset(k).targets(s)) for k in (1, 3))
    matching = match_heads(
        model, "near:1 far:1 some:1", [batch], patterns={"near": near, "far": far}, token_classes={"some": [5, 6, 7]}
    )
    assert [pattern.name for pattern in matching.errors] == ["mine", "mine", "some"]
    assert torch.equal(matching.errors[near], match_heads(model, "next:1", [batch]).errors[NEXT])
    assert started_at(model, matching, [batch]) == pytest.approx(matching.error, rel=1e-6)


def test_a_layer_that_cannot_see_the_targets_draws_no_head():
    """ModernBERT's layers 1 and 2 see two positions to each side. The handle says 0 there: the least, if believed."""
    model, inputs = encoders.make("ModernBert")
    matching = match_heads(model, "0: offset:5:2; 3: offset:5:1", [inputs], across_layers=True)
    assert {head.layer for head in matching.guided} <= {0, 3}
    errors = matching.errors[Offset(5)]
    assert errors[1:3].isnan().all()
    assert errors[[0, 3]].isfinite().all()
    assert matching.error == pytest.approx(errors[[0, 3]].flatten().sort().values[:3].mean().item())
    assert matching.error < matching.default_error
    with pytest.raises(PatternError, match="'offset:5' cannot be matched in layer 1: no query"):
        match_heads(model, "offset:5:1", [inputs])


def test_targets_that_no_batch_holds(make_model, batch):
    with pytest.raises(PatternError, match="'absent' cannot be matched in layer 0: no query in the 1 batches"):
        match_heads(make_model(), "absent:1", [batch], token_classes={"absent": [1]})


def test_the_table(planted, unpadded):
    matching = match_heads(planted, "0: previous:1; 1: next:1", unpadded)
    head, first, second, means = str(matching).splitlines()
    assert head.split() == ["layer", "head", "pattern", "error"]
    assert first.split() == ["0", "2", "previous", f"{matching.errors[PREVIOUS][0, 2]:.4f}"]
    assert second.split()[:3] == ["1", "3", "next"]
    assert len({len(line) for line in (head, first, second)}) == 1
    assert means == f"mean error {matching.error:.4f}; as written, from head 0: {matching.default_error:.4f}"


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        (iter(()), "batches is empty"),
        (None, "batches is a NoneType"),
        ({"input_ids": torch.zeros(1, 4)}, r"batches is a dict.*\[batch\]"),
        ([torch.zeros(1, 4)], "batch 0 is a Tensor, not a mapping"),
        (["text"], "batch 0 is a str, not a mapping"),
    ],
)
def test_batches_of_the_wrong_kind(make_model, batches, message):
    with pytest.raises(ConfigError, match=message) as caught:
        match_heads(make_model(), "next:1", batches)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_found_before_the_batches_are_read(make_model, batch):
    batches = iter([batch])
    with pytest.raises(PatternError, match="the model has 4 heads per layer"):
        match_heads(make_model(), "next:3 first:2", batches)
    with pytest.raises(ConfigError, match="unknown guidance loss"):
        match_heads(make_model(), "next:1", batches, loss="absolute")
    assert next(batches) is batch


def test_a_guided_model_is_refused_and_stays_guided(make_model, batch):
    model = make_model()
    handle = guide(model, "next:1")
    with pytest.raises(AttachError, match=r"guided already; call remove\(\)"):
        match_heads(model, "next:1", [batch])
    model(**batch)
    assert math.isfinite(handle.per_head()[0].error)


def test_attention_that_is_not_finite(make_model, batch):
    model = make_model()
    with torch.no_grad():
        model.roberta.encoder.layer[1].attention.self.query.weight.fill_(float("nan"))
    with pytest.raises(AttachError, match="error of layer 1, head 0 for pattern 'next' is nan"):
        match_heads(model, "next:1", [batch])
    assert model.config._attn_implementation == "sdpa"


def test_rows_per_head_counts_queries_with_a_target(make_model, batch):
    model = make_model()
    handle = guide(model, "0: next:1 first:1; 1: absent:1", token_classes={"absent": [1]})
    model(**batch)
    n_tokens = int(batch["attention_mask"].sum())
    assert handle.rows_per_head() == [n_tokens - 5, n_tokens, 0]
