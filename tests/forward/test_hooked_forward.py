"""`model.forward` of a guided model that others wrap, copy, pickle and remove in their own order."""

from __future__ import annotations

import copy
import inspect
import io
from types import MethodType

import pytest
import torch
from accelerate.utils import convert_outputs_to_fp32, extract_model_from_parallel
from multihead import inputs_of, make_encoder
from torch import nn

from attention_guidance import get_guidance, guide
from attention_guidance.errors import AttachError

HEADS = "next:1 first:1"


def prepared(model):
    """As `Accelerator.prepare` does under mixed precision, which would stay with the process."""
    model._original_forward = model.forward
    if hasattr(model.forward, "__func__"):
        model.forward = MethodType(torch.autocast("cpu", torch.bfloat16)(model.forward.__func__), model)
        model.forward = MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
    else:
        model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    return model


@pytest.mark.parametrize("family", ["bert", "roberta"])
class TestMixedPrecisionOfAccelerate:
    def test_copies_compute_with_their_own_weights(self, make_model, batch, family):
        """The wrapper is of the function, not of the forward of this one model."""
        model, full = make_model(family), make_model(family)
        guide(model, HEADS, weight=1.0)
        guide(full, HEADS, weight=1.0)
        wrapped = prepared(model)
        file = io.BytesIO()
        torch.save(wrapped, file)
        loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
        # A pickle knows a bound method by its name alone: mixed precision is lost there, without guidance too.
        for twin, like, plain in (
            (copy.deepcopy(wrapped), wrapped, prepared(make_model(family))),
            (loaded, full, make_model(family)),
        ):
            assert twin(**batch).loss.item() == like(**batch).loss.item()
            assert twin.eval()(**batch).loss.item() == plain.eval()(**batch).loss.item()
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.zero_()
            expected = torch.tensor(64.0).log().item()
            assert twin(**batch).loss.item() == pytest.approx(expected)
            assert twin.forward(**batch).loss.item() == pytest.approx(expected)
            assert get_guidance(twin).model is twin

    @pytest.mark.parametrize("order", ["guided first", "prepared first", "a part is guided", "wrapped from outside"])
    def test_autocast_is_left_as_it_was(self, make_model, batch, family, order):
        """An autocast that is entered again before it is left would stay switched on for the whole process."""
        model = make_model(family)
        if order == "prepared first":
            prepared(model)
        if order == "a part is guided":
            guide(model.base_model, HEADS, weight=1.0, within=model)
        else:
            guide(model, HEADS, weight=1.0)
        if order == "wrapped from outside":
            model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
        elif order != "prepared first":
            prepared(model)
        expected = model(**batch).loss.item()
        assert not torch.is_autocast_enabled("cpu")
        assert model.forward(**batch).loss.item() == expected
        assert not torch.is_autocast_enabled("cpu")

    @pytest.mark.parametrize("order", ["guided first", "prepared first"])
    @pytest.mark.parametrize("keep_fp32_wrapper", [True, False])
    def test_unwrapped(self, make_model, batch, family, order, keep_fp32_wrapper):
        model = make_model(family)
        if order == "guided first":
            handle = guide(model, HEADS, weight=1.0)
            prepared(model)
        else:
            prepared(model)
            handle = guide(model, HEADS, weight=1.0)
        loss = model(**batch).loss.item()
        assert model.forward(**batch).loss.item() == loss
        if not keep_fp32_wrapper:
            full = make_model(family)
            guide(full, HEADS, weight=1.0)
            assert loss != full(**batch).loss.item() == pytest.approx(loss, rel=1e-3)
            loss = full(**batch).loss.item()
        assert list(inspect.signature(model.forward).parameters)[:2] == ["input_ids", "attention_mask"]
        unwrapped = extract_model_from_parallel(model, keep_fp32_wrapper=keep_fp32_wrapper)
        assert unwrapped(**batch).loss.item() == loss
        if not keep_fp32_wrapper:
            # What Accelerate puts there is the class's own function.
            with pytest.raises(AttachError, match="outside of a guided forward pass"):
                unwrapped.forward(**batch)
        handle.remove()
        assert unwrapped(**batch).loss.item() < loss - 0.1
        assert unwrapped.forward(**batch).loss.item() == unwrapped(**batch).loss.item()


class Several(nn.Module):
    """Several encoders, all of which join its loss."""

    def __init__(self, make_model, n):
        super().__init__()
        self.parts = nn.ModuleList(make_model(seed=seed).roberta for seed in range(n))

    def forward(self, input_ids, attention_mask):
        return {"loss": sum(part(input_ids, attention_mask).last_hidden_state.mean() for part in self.parts)}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_removed_in_any_order(make_model, batch, order):
    del batch["labels"]
    whole = Several(make_model, 3)
    plain = whole(**batch)["loss"].item()
    for _ in range(2):
        handles = [guide(part, HEADS, weight=1.0, within=whole) for part in whole.parts]
        shares = []
        for number in order:
            before = whole.forward(**batch)["loss"].item()
            assert before == whole(**batch)["loss"].item()
            handles[number].remove()
            shares.append(before - whole(**batch)["loss"].item())
        assert min(shares) > 0.1
        assert whole(**batch)["loss"].item() == plain
        assert "forward" not in whole.__dict__
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in whole.modules())


def test_attention_that_was_wrapped_trains_unguided_after_remove():
    """Ours stays beneath what the user has put around it, and only passes calls on."""
    model, plain = make_encoder(), make_encoder()
    handle = guide(model, "next:1", weight=1.0)
    attention = model.layers[0].self_attn
    ours = attention.forward
    attention.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    handle.remove()
    x = inputs_of()
    output = model(x)
    assert torch.equal(output, plain(x))
    output.sum().backward()
