"""Every encoder: guidance and all its gradients equal those of the model's own eager attention maps."""

import encoders
import pytest
import torch

from attention_guidance import guide
from attention_guidance.adapters import causality
from attention_guidance.analysis import take_census
from attention_guidance.errors import AttachError

HEADS = "next:1 previous:1 first:1"


def from_eager_maps(model, inputs):
    """The sum over layers and heads of the mean over rows, from the maps that the model gives out."""
    model.set_attn_implementation("eager")
    maps = model(**inputs, output_attentions=True).attentions
    total = 0
    for map_BHQK in maps:
        n_batch, _, length, _ = map_BHQK.shape
        mask = inputs.get("attention_mask")
        valid = torch.ones(n_batch, length, dtype=torch.bool) if mask is None else mask.bool()
        allowed = (map_BHQK > 0).any(1)  # softmax gives exact zeros where the mask hides, as outside of a window
        for head, target in enumerate((1, -1, "first")):
            rows = []
            for b in range(n_batch):
                for i in valid[b].nonzero().flatten().tolist():
                    key = 0 if target == "first" else i + target
                    if 0 <= key < length and valid[b, key] and allowed[b, i, key]:
                        row = map_BHQK[b, head, i]
                        rows.append(row.square().sum() - 2 * row[key] + 1)
            total = total + torch.stack(rows).mean()
    return total


def assert_is_of_eager_maps(name, backend, rounding, dtype=torch.float64):
    """Loss and gradients of a guided model, up to a share of each that is rounding."""
    guided, inputs = encoders.make(name)
    handle = guide(guided.to(dtype), HEADS, weight=1.0, backend=backend)
    guided(**{key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()})
    assert f"-> {backend}" in handle.explain_backend() or backend == "auto"
    loss = handle.loss()
    loss.backward()
    plain, _ = encoders.make(name)
    expected = from_eager_maps(plain, inputs)
    expected.backward()
    # Some families' eager attention takes its softmax in float32, whatever the model's precision.
    assert loss.item() == pytest.approx(expected.item(), rel=max(1e-6, rounding / 10))
    largest = 0.0
    for (key, ours), theirs in zip(guided.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None or not ours.grad.any(), key
            continue
        # A key's bias shifts all scores of a row alike: its gradient is zero but for the rounding of their float32.
        assert (ours.grad - theirs.grad).norm() <= rounding * (theirs.grad.norm() + 0.01), key
        largest = max(largest, theirs.grad.abs().max().item())
    assert largest > 1e-4, "guidance must reach the parameters"


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", encoders.GUIDABLE)
def test_loss_and_gradients_are_those_of_the_eager_maps(name, backend):
    assert_is_of_eager_maps(name, backend, 1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels are compiled, not interpreted")
@pytest.mark.parametrize("name", ["Bert", "Albert", "ModernBert", "EuroBert", "ViT", "Wav2Vec2"])
def test_kernels_give_those_of_the_eager_maps(name):
    """In Triton's interpreter; a window, shared keys and shared layers are among these."""
    pytest.importorskip("triton")
    assert_is_of_eager_maps(name, "triton", 1e-3, torch.float32)


@pytest.mark.parametrize("name", encoders.GUIDABLE)
def test_output_is_untouched(name):
    guided, inputs = encoders.make(name)
    plain, _ = encoders.make(name)
    expected = plain(**inputs)[0]
    handle = guide(guided, HEADS)
    # Another order of sums than torch's own attention has.
    torch.testing.assert_close(guided(**inputs)[0], expected, rtol=1e-9, atol=1e-9)
    handle.weight = 0.0
    assert torch.equal(guided(**inputs)[0], expected)
    handle.remove()
    guide(guided, HEADS, backend="reference")
    assert torch.equal(guided(**inputs)[0], expected)
    assert torch.equal(guided.eval()(**inputs)[0], plain.eval()(**inputs)[0])


@pytest.mark.parametrize("name", encoders.GUIDABLE)
def test_auto_takes_the_fast_backend_where_it_can_serve(name):
    model, inputs = encoders.make(name)
    handle = guide(model, HEADS)
    model(**inputs)
    assert handle.explain_backend().startswith(f"auto -> {encoders.AUTO.get(name, 'batched')} ")


@pytest.mark.parametrize("name", encoders.OUTSIDE)
def test_encoders_outside_the_interface_say_so(name):
    model, _ = encoders.make(name)
    with pytest.raises(
        AttachError, match=f"{name}Model does not call its attention through.*, and .* applies dropout by a function"
    ):
        guide(model, HEADS)


@pytest.mark.parametrize("name", ["Bert", "EuroBert"])
@pytest.mark.parametrize("heads", ["next@0,2 first@1,3", "next@3,0 first@1 previous@2", "next@0,2 first@1"])
def test_heads_in_any_order_keep_their_places(name, heads):
    """All heads guided, their patterns interleaved, keys shared by two heads or not: outputs and gradients."""
    found = []
    for backend in ("reference", "batched", "blocked"):
        model, inputs = encoders.make(name)
        handle = guide(model, heads, weight=1.0, backend=backend)
        output = model(**inputs)[0]
        (output.square().sum() + handle.loss()).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((output.detach(), gradients))
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert (ours - theirs).norm() <= 1e-9 * theirs.norm()


def test_causal_attention_is_refused():
    """CLIP's text encoder asks for it call by call."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = CLIPTextModel(CLIPTextConfig(vocab_size=64, max_position_embeddings=16, **sizes)).train()
    guide(model, HEADS)
    with pytest.raises(AttachError, match="attends causally"):
        model(input_ids=torch.randint(5, 60, (2, 9)))


def aimv2_text():
    from transformers import Aimv2TextConfig, Aimv2TextModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return Aimv2TextModel(Aimv2TextConfig(vocab_size=64, max_position_embeddings=16, eos_token_id=3, **sizes))


def doge():
    from transformers import DogeConfig, DogeModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return DogeModel(DogeConfig(vocab_size=64, max_position_embeddings=16, **sizes))


@pytest.mark.parametrize("make", [aimv2_text, doge])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_a_mask_that_is_causal_is_refused_in_the_first_pass(make, base):
    """Neither model nor call says that it is causal; Doge's mask is one for each head.

    AIMv2 has a mask only where there is padding.
    """
    model = make().train()
    model.set_attn_implementation(base)
    handle = guide(model, HEADS)
    match = r"Attention of layer 0 attends causally, and guidance is for bidirectional encoders"
    ids, mask = torch.randint(5, 60, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    if make is aimv2_text:
        mask[0, 6:] = 0
        model(input_ids=ids)
    for _ in range(2):
        with pytest.raises(AttachError, match=match):
            model(input_ids=ids, attention_mask=mask)
    handle.remove()
    with pytest.raises(AttachError, match="and looking is for bidirectional encoders"):
        take_census(model, [{"input_ids": ids, "attention_mask": mask}], "next")


def test_masks_are_looked_at_until_one_shows_both_directions(monkeypatch):
    """Of texts of one token, none does."""
    looked = []
    look = causality.directions
    monkeypatch.setattr(causality, "directions", lambda shown: looked.append(shown.shape) or look(shown))
    model = aimv2_text().train()
    guide(model, "first:1")
    ids, mask = torch.randint(5, 60, (2, 9)), torch.zeros(2, 9, dtype=torch.long)
    mask[:, 0] = 1
    model(input_ids=ids, attention_mask=mask)
    mask[:, :4] = 1
    with pytest.raises(AttachError, match="attends causally"):
        model(input_ids=ids, attention_mask=mask)
    looked.clear()
    model, inputs = encoders.make("ModernBert")
    guide(model, HEADS)
    for _ in range(3):
        model(**inputs)
    assert len(looked) == model.config.num_hidden_layers, "those of the first pass alone"


@pytest.mark.parametrize("name", encoders.AUDIO)
def test_layers_left_out_at_random_add_nothing(name):
    model, inputs = encoders.make(name)
    model.config.layerdrop = 0.5
    handle = guide(model, HEADS, weight=1.0)
    torch.manual_seed(0)
    rows = set()
    for _ in range(12):
        model(**inputs)
        handle.loss()
        rows.add(tuple(count > 0 for count in handle.rows_per_head()))
    assert len(rows) > 1, "some passes left layers out"
