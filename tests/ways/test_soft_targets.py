"""Rows of probabilities as targets, against the model's own attention maps; and the loss `cross_entropy`."""

import eager_maps
import encoders
import pytest
import torch

from attention_guidance import guide
from attention_guidance.analysis import take_census, without_heads
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.patterns import Custom, Offset

OBJECTIVES = ["squared_error", "cross_entropy"]
SIZE = (3, 10)


def probabilities(seed=0):
    """Of every key, padding included; some queries have no target, and some keys no probability."""
    rows = torch.randn(*SIZE, SIZE[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()
    rows[:, :, 2] += 0.5
    rows /= rows.sum(-1, keepdim=True)
    rows[0, 3] = 0
    return rows


def expected_loss(model, inputs, soft, n_heads, objective):
    """The sum over layers and heads of the mean over rows, by loops over the maps that the model gives out."""
    model.set_attn_implementation("eager")
    maps = model(**inputs, output_attentions=True).attentions
    valid = inputs["attention_mask"].bool()
    total = 0
    for map_BHTT in maps:
        for head in range(n_heads):
            rows = []
            for b, i in valid.nonzero().tolist():
                row = map_BHTT[b, head, i]
                # Zero is what the mask hides, as outside of a window.
                target = torch.where((row > 0) & valid[b], soft[b, i], 0.0)
                if not target.any():
                    continue
                target = target / target.sum()
                on = target > 0
                if objective == "squared_error":
                    rows.append((row - target).square().sum())
                else:
                    rows.append(-(target[on] * row[on].log()).sum())
            total = total + torch.stack(rows).mean()
    return total


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("Bert", "reference"), ("Bert", "blocked"), ("ModernBert", "reference"), ("ModernBert", "blocked"),
        ("EuroBert", "blocked"), ("T5", "auto"), ("DebertaV2", "auto"), ("RoFormer", "auto"),
    ],
)  # fmt: skip
def test_loss_and_gradients_are_those_of_the_eager_maps(name, backend, objective):
    model, inputs = encoders.make(name)
    soft = probabilities()
    handle = guide(model, "given:2", weight=1.0, loss=objective, backend=backend)
    model(**inputs, guidance_targets=soft)
    handle.loss().backward()
    plain, _ = encoders.make(name)
    expected = expected_loss(plain, inputs, soft, 2, objective)
    expected.backward()
    tolerance = 1e-5 if name in ("ModernBert", "EuroBert", "T5") else 1e-9  # whose eager softmax is in float32
    assert handle.loss().item() == pytest.approx(expected.item(), rel=tolerance)
    eager_maps.assert_same_gradients(model, plain, tolerance)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
def test_without_padding_the_squared_error_is_that_of_the_whole_rows(backend):
    model, inputs = encoders.make("Bert")
    ids, soft = inputs["input_ids"], probabilities()
    handle = guide(model, "given:1", weight=1.0, backend=backend)
    model(input_ids=ids, guidance_targets=soft)
    model.set_attn_implementation("eager")
    plain, _ = encoders.make("Bert")
    plain.set_attn_implementation("eager")
    maps = plain(input_ids=ids, output_attentions=True).attentions
    rows = torch.stack([(of_layer[:, 0] - soft).square().sum(-1)[soft.sum(-1) > 0].mean() for of_layer in maps])
    assert handle.loss().item() == pytest.approx(rows.sum().item(), rel=1e-9)


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_uniform_rows_are_the_hard_targets(objective, backend):
    keys = torch.rand(*SIZE, SIZE[1], generator=torch.Generator().manual_seed(2)) < 0.3
    uniform = keys.double() / keys.sum(-1, keepdim=True).clamp(min=1)
    found = []
    for given in (keys, uniform):
        model, inputs = encoders.make("Bert")
        handle = guide(model, "given:1", weight=1.0, loss=objective, backend=backend)
        model(**inputs, guidance_targets=given)
        handle.loss().backward()
        found.append((handle.loss().item(), handle.rows_per_head(), model))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-7)
    assert found[0][1] == found[1][1]
    eager_maps.assert_same_gradients(found[0][2], found[1][2], 1e-7)


def test_cross_entropy_of_one_key_is_its_log_mass():
    losses = []
    for objective in ("log_mass", "cross_entropy"):
        model, inputs = encoders.make("Bert")
        handle = guide(model, "next:1 first:1", loss=objective)
        model(**inputs)
        losses.append(handle.loss().item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_a_function_may_return_them():
    model, inputs = encoders.make("Bert")
    soft = probabilities()
    handle = guide(model, {Custom("soft", lambda sequences: soft): 1}, weight=1.0)
    model(**inputs)
    by_function = handle.loss().item()
    handle.remove()
    handle = guide(model, "given:1", weight=1.0)
    model(**inputs, guidance_targets=soft)
    assert handle.loss().item() == by_function
    handle.remove()
    some = Custom("soft", lambda sequences: soft[:1]).where(lambda sequences: sequences.input_ids_BT > 30, "some")
    handle = guide(model, {some: 1})
    model(**inputs)
    n_rows = ((inputs["input_ids"] > 30) & inputs["attention_mask"].bool() & (soft[:1].sum(-1) > 0)).sum().item()
    assert handle.rows_per_head() == [n_rows] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows * 1.5, r"guidance_targets: the soft target of query 0 in sequence 0 sums to 1\.5; each row"),
        (lambda rows: rows.index_fill(2, torch.tensor(2), -0.5), "query 0 in sequence 0 has the number -0.5"),
        (lambda rows: rows * float("nan"), "query 0 in sequence 0"),
    ],
)
def test_rows_that_are_no_probabilities_are_one_error(change, message):
    model, inputs = encoders.make("Bert")
    guide(model, "given:1")
    with pytest.raises(PatternError, match=message):
        model(**inputs, guidance_targets=change(probabilities()))


def test_what_soft_targets_cannot_do():
    model, inputs = encoders.make("Bert")
    batch, soft = inputs | {"guidance_targets": probabilities()}, Custom("soft", lambda sequences: probabilities())
    handle = guide(model, "given:1", loss="log_mass")
    with pytest.raises(PatternError, match="'given' has soft targets, on which there is no mass: use loss='squared_"):
        model(**batch)
    handle.remove()
    for union in (soft | Offset(1), Offset(1) | soft):
        handle = guide(model, {union: 1})
        with pytest.raises(PatternError, match="cannot be joined with other patterns"):
            model(**inputs)
        handle.remove()
    with pytest.raises(PatternError, match="counted in a census"):
        take_census(model, inputs, [soft])
    with without_heads(model, [(0, 0)], to=soft), pytest.raises(PatternError, match="in place of a head"):
        model(**inputs)
    with pytest.raises(ConfigError, match="elementwise"):
        guide(model, "given:1", loss="cross_entropy", normalization="elementwise")
    guide(model, "given:1", backend="triton")
    with pytest.raises(AttachError, match="backend 'triton' cannot guide this attention"):
        model(**batch)


def test_half_precision_rows_are_rounded():
    model, inputs = encoders.make("Bert")
    handle = guide(model, "given:1")
    model(**inputs, guidance_targets=probabilities())
    exact = handle.loss().item()
    model(**inputs, guidance_targets=probabilities().bfloat16())
    assert handle.loss().item() == pytest.approx(exact, rel=1e-2)


def test_compiled_they_are_the_same():
    torch.compiler.reset()
    losses = []
    for compiled in (False, True):
        model, inputs = encoders.make("Bert")
        handle = guide(model, "given:1", weight=1.0, loss="cross_entropy")
        called = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        called(**inputs, guidance_targets=probabilities())
        losses.append(handle.loss().item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.compiler.reset()
