"""`guide(model, ...)`: attach guidance to a model, in place."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from torch import nn

from attention_guidance.adapters import adapter_of, whole_of
from attention_guidance.adapters.inputs_outputs import check_class_token
from attention_guidance.assignment import Heads, assign_heads
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.handle import Guidance
from attention_guidance.loss.aggregate import check_normalization
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.statistics import check_objective
from attention_guidance.patterns import Pattern, TokenClasses, get_pattern
from attention_guidance.schedules import Schedule, checked_weight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def guide(
    model: nn.Module,
    heads: Heads,
    weight: float = 0.1,
    *,
    loss: str = "squared_error",
    normalization: str = "query",
    backend: str = "auto",
    schedule: str | Schedule = "constant",
    total_steps: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Mapping[str, Pattern] | None = None,
    within: nn.Module | None = None,
) -> Guidance:
    """Guide attention heads of a model toward patterns while it trains.

    The model is changed in place and stays what it was: same class, same parameters, same state dict. In training mode
    ``model(**batch).loss`` becomes objective + weight x guidance; in evaluation mode it stays the objective.

    Args:
        model: a bidirectional encoder of transformers with any head on it; a module that holds one, such as a
            SentenceTransformer; or one that is or holds torch's nn.MultiheadAttention, such as nn.TransformerEncoder.
        heads: which heads follow which pattern, e.g. ``"next:1 previous:1 first:4"`` for every layer; see
            `attention_guidance.assignment`.
        weight: factor on the guidance loss; with `query` normalization, the pull on each guided head.
        loss: `squared_error` (the paper's) or `log_mass` (minus the log of the mass on the targets).
        normalization: `query` (sum over heads of the mean over rows) or `elementwise` (the authors' scale).
        backend: what computes the guided heads: `auto`, `reference` (dense maps, serves everything), `blocked` (plain
            torch, keeps no map) or `triton` (NVIDIA GPUs, experimental); see `attention_guidance.loss.backends`.
        schedule: how the weight changes over training; a `Schedule` or the name of its shape. Anything but `constant`
            needs to hear of the steps: from ``callbacks=[guidance.callback()]`` under Trainer, from ``guidance.step()``
            in a loop of one's own.
        total_steps: length of the run in optimisation steps, where the schedule needs it and no Trainer tells it.
        tokenizer: finds the ids of token classes such as `delimiter` and `period`.
        token_classes: classes of one's own for use in `heads`, by name; see `attention_guidance.patterns.get_pattern`.
        patterns: patterns of one's own for use in `heads`, by name.
        within: the module whose loss guidance joins, where `model` is only a part of it: a model of two encoders, a
            module that computes a loss from the model's output.

    Returns:
        The handle: weights, per-head values, `remove()`.

    Raises:
        AttachError: the model is guided already, is no bidirectional encoder, or does not take its attention through
            transformers' attention interface or nn.MultiheadAttention.
        PatternError: the assignment does not fit the model.
        ConfigError: unknown loss, normalization, backend or schedule; a weight or length that cannot be.
    """
    check_objective(loss)
    check_normalization(normalization, loss)
    weight = checked_weight(weight)
    if total_steps is not None and not (isinstance(total_steps, Real) and total_steps > 0):
        raise ConfigError(f"total_steps={total_steps!r} must be the length of the run in steps, above 0")
    if within is not None and not isinstance(within, nn.Module):
        raise AttachError(f"within={within!r} is no model; give the torch module whose loss guidance joins")
    choice = BackendChoice(backend)
    adapter = adapter_of(model)
    guided = assign_heads(
        heads, adapter.n_layers, adapter.n_heads, lambda name: get_pattern(name, tokenizer, token_classes, patterns)
    )
    check_class_token((head.pattern for head in guided), within or adapter.model)

    schedule = Schedule(schedule) if isinstance(schedule, str) else schedule
    if not isinstance(schedule, Schedule):
        raise ConfigError(f"schedule={schedule!r} must be a Schedule or the name of its shape")
    whole = whole_of(model, adapter, within)
    return Guidance(adapter, guided, loss, normalization, choice, weight, schedule, total_steps, whole)


def get_guidance(model: nn.Module) -> Guidance:
    """The handle on a guided model: of a copy too, which has a guidance of its own.

    Args:
        model: guided, or holding one guided model.

    Raises:
        AttachError: it is not guided, or it holds several guided models.
    """
    hooks: list[Any] = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    found: list[Any] = [getattr(hook, "__self__", None) for hook in hooks]
    # One has hooks on the whole around its model, too.
    owners: list[Guidance] = list({id(owner): owner for owner in found if isinstance(owner, Guidance)}.values())
    if len(owners) == 1:
        return owners[0]
    name = type(model).__name__
    if not owners:
        raise AttachError(f"this {name} is not guided: call guide(model, ...) first")
    parts = ", ".join(type(owner.model).__name__ for owner in owners)
    raise AttachError(f"this {name} holds {len(owners)} guided models ({parts}): ask for the guidance of one of them")
