"""What becomes of guidance on each family: equal to the model's own eager attention maps, or why not."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import families
import torch
from torch import Tensor
from transformers import PreTrainedModel

from attention_guidance import guide
from attention_guidance.adapters.modules import attention_modules
from attention_guidance.errors import GuidanceError, reason_of

HEADS = "next:1 previous:1 first:1"
#: Models of more parameters are not tried.
_LARGEST = 50_000_000
# In float64; some families' eager attention takes its softmax in float32.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class Verdict:
    """What was found of a class.

    Attributes:
        kind: `exact`; `refused` by guide() or `refused in a pass`; `not compared`; `not built`; or `WRONG`.
        reason: why it is not exact; if it is, the backend, or `own maps`.
    """

    kind: str
    reason: str = ""


def attached(model_class: type[PreTrainedModel]) -> Verdict:
    """Whether guide() takes a model of a class, without weights: `attached`, `refused`, `not built`.

    Any exception of guide() and remove() but the project's own comes through.
    """
    try:
        model = families.on_meta(model_class)
    except Exception as error:
        return Verdict("not built", reason_of(error))
    before = [config._attn_implementation for config in families.configurations(model)]
    try:
        guide(model, "first:1").remove()
    except GuidanceError as error:
        return Verdict("refused", str(error))
    assert [config._attn_implementation for config in families.configurations(model)] == before
    return Verdict("attached")


def compared(model_class: type[PreTrainedModel]) -> Verdict:
    """The guidance loss and its gradients of a small random model against the maps of an unguided copy."""
    tried: Verdict | None = None
    for narrower in (8, 2, 1):
        try:
            size = sum(p.numel() for p in families.built(model_class, "meta", narrower=narrower).parameters())
            if size > _LARGEST:
                return tried or Verdict("not compared", f"its smallest model has {size / 1e6:.0f} million parameters")
            model = families.prepared(families.built(model_class, "cpu", narrower=narrower))
        except Exception as error:
            tried = Verdict("not compared", f"no small model could be made: {reason_of(error)}")
            continue
        try:
            verdicts = [_of_inputs(model, inputs) for inputs in families.inputs_of(model)]
        except LookupError as error:
            return Verdict("not compared", str(error))
        tried = next((verdict for verdict in verdicts if verdict.kind != "not compared"), verdicts[0])
        if tried.kind != "not compared":
            return tried
    return tried


def _of_inputs(plain: PreTrainedModel, inputs: dict[str, Any]) -> Verdict:
    plain, guided = copy.deepcopy(plain), copy.deepcopy(plain)
    try:
        torch.manual_seed(0)
        plain(**inputs)
    except Exception as error:
        return Verdict("not compared", f"its forward raises: {reason_of(error)}")
    handle = guide(guided, HEADS, weight=1.0)
    try:
        torch.manual_seed(0)
        guided(**inputs)
    except GuidanceError as error:
        return Verdict("refused in a pass", str(error))
    except Exception as error:
        return Verdict("WRONG", f"unguided it runs, guided it raises: {error!r}")
    loss = handle.loss()
    torch.manual_seed(0)
    expected = _expected(plain, inputs)
    if expected is None:
        return Verdict("not compared", "it gives out no attention maps, or only parts of them")
    loss.backward()
    expected.backward()
    distance, size = _gradients(guided, plain)
    right = math.isclose(loss.item(), expected.item(), rel_tol=_ROUNDING) and distance <= _ROUNDING * size
    if not right or size < 1e-4:
        losses = f"loss {loss.item():.6g}, by the maps {expected.item():.6g}"
        return Verdict("WRONG", f"{losses}; gradients off by {distance:.1g} of {size:.3g}")
    own_maps = not any(attention_modules(guided))
    return Verdict("exact", "own maps" if own_maps else handle.explain_backend().split()[2])


def _gradients(ours: PreTrainedModel, theirs: PreTrainedModel) -> tuple[float, float]:
    """The distance of two models' gradients, and the norm of the second's."""
    distance = size = 0.0
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        first, second = (torch.zeros(()) if p.grad is None else p.grad for p in (mine, other))
        distance += float((first - second).square().sum())
        size += float(second.square().sum())
    return math.sqrt(distance), math.sqrt(size)


def _expected(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor | None:
    """The guidance by its definition, from the maps that a model gives out.

    None if it gives out none of probabilities, or of scores (SqueezeBERT), of the whole sequence.
    """
    model.set_attn_implementation("eager")
    maps = getattr(model(**inputs, output_attentions=True, return_dict=True), "attentions", None)
    if not maps or not all(isinstance(of_layer, Tensor) and of_layer.dim() == 4 for of_layer in maps):
        return None
    maps = [(of_layer.softmax(-1) if (of_layer < 0).any() else of_layer) for of_layer in maps]
    if not all(((sums := of_layer.sum(-1)).sub(1).abs().lt(1e-3) | (sums == 0)).all() for of_layer in maps):
        return None
    total = torch.zeros((), dtype=torch.float64)
    for map_BHTT in maps:
        n_batch, length = map_BHTT.shape[0], map_BHTT.shape[-1]
        mask = inputs.get("attention_mask")
        valid_BT = torch.ones(n_batch, length) if mask is None or mask.shape != (n_batch, length) else mask
        valid_BT, place_T = valid_BT.bool(), torch.arange(length)
        for head, target_T in enumerate((place_T + 1, place_T - 1, torch.zeros_like(place_T))):
            at_T, map_BTT = target_T.clamp(0, length - 1), map_BHTT[:, head]
            on_BT = map_BTT.gather(-1, at_T.expand(n_batch, length)[..., None])[..., 0]
            # Zero is what the mask hides, as outside of a window.
            counted_BT = valid_BT & valid_BT[:, at_T] & (target_T == at_T) & (on_BT > 0)
            total = total + (map_BTT.square().sum(-1) - 2 * on_BT + 1)[counted_BT].mean()
    return total
