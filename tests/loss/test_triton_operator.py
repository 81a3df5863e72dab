"""The kernels as an operator of torch: its registration, under torch.compile, under checkpointing, in a model."""

import pytest
import torch
from calls import PATTERNS, make_call

from attention_guidance import guide
from attention_guidance.loss import triton
from attention_guidance.loss.triton.geometry import geometry_of
from attention_guidance.loss.triton.operator import fused
from attention_guidance.loss.triton.tiles import prepare

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("with a GPU the kernels are compiled, not interpreted: test_gpu.py", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
HEADS = "next:1 previous:1 first:1"


@pytest.mark.parametrize("log_mass", [False, True], ids=["squared_error", "log_mass"])
@pytest.mark.parametrize("with_output", [False, True])
def test_registration(log_mass, with_output):
    """Schema, shapes and strides of the fake, autograd, and tracing of both passes."""
    call = make_call(PATTERNS[:2], "keys", length=20, dtype=torch.float32, log_mass=log_mass)
    tensors = [tensor.requires_grad_(with_output) for tensor in (call.query_BHQD, call.key_BHKD, call.value_BHKD)]
    prepared = prepare(call, geometry_of(8, torch.float32))
    seed = torch.tensor([5])
    given = (*tensors, call.mask, *prepared, [1, 0], [1, 1], call.scale, 0.1, seed, log_mass, with_output)
    torch.library.opcheck(fused, given)


def test_the_output_may_be_changed_in_place():
    """As that of torch's attention may. The kernels' backward pass needs it as it was, as those of torch do."""
    call = make_call(PATTERNS[:2], "keys", length=20, dtype=torch.float32)
    call.query_BHQD.requires_grad_()
    out_BHQD, _ = triton.attend(call)
    plain = out_BHQD.detach().clone()
    assert out_BHQD.transpose(1, 2).is_contiguous()
    changed = out_BHQD.transpose(1, 2).contiguous().mul_(2)
    assert torch.equal(changed.transpose(1, 2), 2 * plain)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        changed.sum().backward()


def models(make_model, **config):
    return [make_model("bert", num_hidden_layers=2, **config) for _ in range(2)]


def gradients(model, batch, seed=0):
    torch.manual_seed(seed)
    loss = model(**batch).loss
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def assert_same(ours, theirs, tolerance):
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        assert (mine - other).norm() <= 10 * tolerance * (1e-3 + other.norm())


def test_a_model_trains_as_with_the_reference(make_model, batch):
    ours, theirs = models(make_model)
    handle = guide(ours, HEADS, weight=1.0, backend="triton")
    guide(theirs, HEADS, weight=1.0, backend="reference")
    assert_same(gradients(ours, batch), gradients(theirs, batch), 1e-5)
    assert "triton: taken (asked for)" in handle.explain_backend()


def test_evaluation_gives_the_models_own_output(make_model, batch):
    ours, plain = models(make_model)
    guide(ours, HEADS, weight=1.0, backend="triton")
    with torch.no_grad():
        assert torch.equal(ours.eval()(**batch).logits, plain.eval()(**batch).logits)


def test_recomputation_draws_the_same_dropout(make_model, batch):
    ours, plain = models(make_model, attention_probs_dropout_prob=0.3)
    for model in (ours, plain):
        guide(model, HEADS, weight=1.0, backend="triton")
    ours.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(gradients(ours, batch), gradients(plain, batch), 1e-6)


def test_one_graph_for_torch_compile(make_model, batch):
    torch.compiler.reset()
    ours, plain = models(make_model)
    for model in (ours, plain):
        guide(model, HEADS, weight=1.0, backend="triton")
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    found = gradients(compiled, batch)
    torch.compiler.reset()
    assert_same(found, gradients(plain, batch), 1e-5)


def test_without_triton(monkeypatch, make_model, batch):
    """All else works; asked for by name, it says what to install."""
    monkeypatch.setattr(triton, "installed", lambda: False)
    from attention_guidance.errors import AttachError

    model = make_model("bert")
    guide(model, HEADS, weight=1.0, backend="triton")
    with pytest.raises(
        AttachError, match=r"cannot guide this attention: Triton is not installed \(pip install triton\)"
    ):
        model(**batch)
