"""A guided model under torch.compile: the same numbers, and whatever changes afterwards is not baked in."""

import pytest
import torch

from attention_guidance import Schedule, guide

HEADS = "next:1 previous:1 first:1"


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def make(make_model):
    """One layer, to compile fast; in double precision, so that numbers can be held to be equal."""
    return lambda: make_model("bert", num_hidden_layers=1).double()


def loss_and_gradients(model, batch):
    loss = model(**batch).loss
    model.zero_grad()
    loss.backward()
    # The gradients of the module beneath torch.compile, by its own names.
    names = {name.removeprefix("_orig_mod."): parameter for name, parameter in model.named_parameters()}
    return loss.item(), {name: parameter.grad.clone() for name, parameter in names.items()}


def errors_of(handle):
    return [head.error for head in handle.per_head()]


def assert_same(tensors, others):
    assert tensors.keys() == others.keys()
    for name in tensors:
        torch.testing.assert_close(tensors[name], others[name], rtol=1e-10, atol=1e-13, msg=name)


def test_loss_and_gradients_are_the_same(make, batch):
    """With the backward pass traced too; the next test compares losses and gradients with backend `eager`."""
    model, plain = make(), make()
    handle, expected = guide(model, HEADS, weight=1.0), guide(plain, HEADS, weight=1.0)
    loss, gradients = loss_and_gradients(torch.compile(model, backend="aot_eager", fullgraph=True), batch)
    plain_loss, plain_gradients = loss_and_gradients(plain, batch)
    assert loss == pytest.approx(plain_loss, rel=1e-12)
    assert loss > make()(**batch).loss.item() + 1, "guidance is a large part of this loss"
    assert_same(gradients, plain_gradients)
    assert errors_of(handle) == pytest.approx(errors_of(expected), rel=1e-12)


def test_a_schedule_is_not_baked_in(make, batch):
    """Training with a weight that changes at every step, and ends at zero, leaves the same parameters."""
    results = []
    for compiled in (True, False):
        model = make()
        handle = guide(model, HEADS, weight=1.0, schedule=Schedule("linear", end=5))
        runs = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        losses = []
        for _ in range(7):
            loss = runs(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            handle.step()
            losses.append(loss.item())
        results.append((losses, model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-10)
    assert_same(results[0][1], results[1][1])


def test_guidance_that_comes_and_goes_after_a_compiled_run(make, batch):
    """Hooks are not among what torch.compile guards; the attention's name in the config is, and makes it look again."""
    model = make()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    unguided = compiled(**batch).loss.item()
    guidance = guide(model, HEADS, weight=1.0)
    guided = compiled(**batch).loss.item()
    assert guided == pytest.approx(unguided + sum(errors_of(guidance)), rel=1e-12)
    assert guided > unguided + 1
    guidance.remove()
    assert compiled(**batch).loss.item() == unguided
    other = guide(model, "first:2", weight=0.5)
    assert compiled(**batch).loss.item() == pytest.approx(unguided + 0.5 * sum(errors_of(other)), rel=1e-12)
    assert len(errors_of(other)) == 2


def test_guidance_that_comes_after_a_compiled_pass(make, batch):
    """Also where another guided model has lent the config its attention's name, so that this did not change."""
    first = make()
    guide(first, HEADS)
    second = type(first)(first.config).double().train()
    compiled = torch.compile(second, backend="eager")
    unguided = compiled(**batch).loss.item()
    handle = guide(second, HEADS, weight=1.0)
    guided = compiled(**batch).loss.item()
    assert guided - unguided == pytest.approx(handle.loss().item(), rel=1e-12)
    assert guided - unguided > 0.1
    assert guided == second(**batch).loss.item()


def test_measuring(make, batch):
    model, plain = make().eval(), make().eval()
    handle, expected = guide(model, HEADS), guide(plain, HEADS)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for guidance, runs in ((handle, compiled), (expected, plain)):
        with guidance.measure(), torch.no_grad():
            runs(**batch)
            runs(**{name: tensor[[0, 0, 2, 3, 3]] for name, tensor in batch.items()})
    assert errors_of(handle) == pytest.approx(errors_of(expected), rel=1e-12)
    assert model(**batch).loss.item() == make().eval()(**batch).loss.item()


def test_evaluation_is_one_graph_too(make, batch):
    model = make().eval()
    expected = model(**batch).loss.item()
    guide(model, HEADS)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert compiled(**batch).loss.item() == pytest.approx(expected, rel=1e-12)


def test_layers_compiled_alone(make, batch):
    model = make()
    for layer in model.bert.encoder.layer:
        layer.compile(backend="eager", fullgraph=True)
    unguided = model(**batch).loss.item()
    guide(model, HEADS, weight=1.0)
    plain = make()
    guide(plain, HEADS, weight=1.0)
    (loss, gradients), (plain_loss, plain_gradients) = (loss_and_gradients(m, batch) for m in (model, plain))
    assert loss == pytest.approx(plain_loss, rel=1e-12)
    assert loss > unguided + 1
    assert_same(gradients, plain_gradients)
