"""`guide(model, ...)`: attach guidance to a model, in place."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from attention_guidance.adapters import adapter_of, cross_adapter_of, whole_of
from attention_guidance.adapters.inputs_outputs import check_class_token
from attention_guidance.assignment import Heads, assign_heads
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.handle import Guidance
from attention_guidance.loss.aggregate import Normalization, check_normalization
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.backends import Name as BackendName
from attention_guidance.loss.statistics import Loss, check_objective
from attention_guidance.patterns import Patterns, TokenClasses, check_crossing, get_pattern
from attention_guidance.schedules import RelativeWeight, Schedule, Shape, checked_weight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def guide(
    model: nn.Module,
    heads: Heads,
    weight: float | RelativeWeight = 0.1,
    *,
    loss: Loss = "squared_error",
    normalization: Normalization = "query",
    backend: BackendName = "auto",
    schedule: Shape | Schedule = "constant",
    total_steps: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Patterns | None = None,
    within: nn.Module | None = None,
    attention: Literal["self", "cross"] = "self",
) -> Guidance:
    """Guide attention heads of a model toward patterns while it trains.

    The model is changed in place; its class, parameters and state dict stay the same. In training mode,
    ``model(**batch).loss`` becomes objective + weight x guidance. In evaluation mode, it remains the objective.

    Examples:
        >>> guidance = guide(model, heads="next:1 previous:1", weight=0.1)
        >>> model(**batch).loss.backward()  # objective + weight x guidance
        >>> len(guidance.heads)  # two in each of two layers
        4
        >>> guidance.remove()

    Args:
        model: a bidirectional encoder of transformers with any head; a module that contains exactly one, such as a
            SentenceTransformer; or a module that is or contains nn.MultiheadAttention, such as nn.TransformerEncoder.
        heads: which heads follow which pattern, e.g. ``"next:1 previous:1 first:4"`` for every layer; see
            `attention_guidance.assignment`.
        weight: factor on the guidance loss; with `query` normalization, the pull on each guided head. A
            `RelativeWeight` is a multiple of the first training step's loss; it needs to know when that step ends, as
            `schedule` does.
        loss: `squared_error` (the paper's), `log_mass` (minus the log of the mass on the targets) or `cross_entropy`
            (minus the mean log probability of the targets; computed from dense maps of targets).
        normalization: `query` (sum over heads of the mean over rows) or `elementwise` (the authors' scale).
        backend: what computes the guided heads: `auto`, `reference` (dense maps, supports everything), `batched` (plain
            torch, short sequences on CPUs), `blocked` (plain torch; neither stores a map) or `triton` (NVIDIA GPUs,
            experimental); see `attention_guidance.loss.backends`.
        schedule: how the weight changes over training: a `Schedule` or the name of its shape. All but `constant` need
            to know the training step: pass ``callbacks=[guidance.callback()]`` to Trainer, or call
            ``guidance.step()`` in your own loop.
        total_steps: length of the run in optimisation steps, if the schedule needs it and no Trainer provides it.
        tokenizer: provides the ids of token classes such as `delimiter` and `period`.
        token_classes: user-defined token classes for use in `heads`, by name; see
            `attention_guidance.patterns.get_pattern`.
        patterns: user-defined patterns for use in `heads`, by name.
        within: the module to whose loss guidance is added, if `model` is only a part of it: a model with two encoders,
            or a module that computes a loss from the model's output.
        attention: `self`, or `cross` for the attention of an encoder-decoder's decoder to its encoder. Layers are then
            those of the decoder, and patterns `diagonal`, `soft_diagonal`, `given` or your own functions.

    Returns:
        The handle, with the weight, per-head errors and `remove()`.

    Raises:
        AttachError: the model is guided already, is not a bidirectional encoder, or computes its attention where it
            cannot be seen: neither through transformers' attention interface or nn.MultiheadAttention, nor with a
            Dropout module for its attention maps.
        PatternError: the assignment does not fit the model.
        ConfigError: unknown loss, normalization, backend or schedule, or an invalid weight or length.
    """
    check_objective(loss)
    check_normalization(normalization, loss)
    weight = weight if isinstance(weight, RelativeWeight) else checked_weight(weight)
    if total_steps is not None and not (isinstance(total_steps, Real) and total_steps > 0):
        raise ConfigError(f"total_steps={total_steps!r} must be the length of the run in steps, above 0")
    if within is not None and not isinstance(within, nn.Module):
        raise AttachError(
            f"within={within!r} is not a torch.nn.Module; give the module to whose loss guidance is added"
        )
    choice = BackendChoice(backend)
    if attention not in ("self", "cross"):
        raise ConfigError(f"attention={attention!r} must be 'self' or 'cross'")
    adapter = adapter_of(model) if attention == "self" else cross_adapter_of(model)
    guided = assign_heads(
        heads, adapter.n_layers, adapter.n_heads, lambda name: get_pattern(name, tokenizer, token_classes, patterns)
    )
    if attention == "cross":
        for head in guided:
            check_crossing(head.pattern)
        if normalization == "elementwise":
            raise ConfigError("normalization='elementwise' is that of self-attention; use normalization='query'")
    check_class_token((head.pattern for head in guided), within or adapter.model)

    schedule = Schedule(schedule) if isinstance(schedule, str) else schedule
    if not isinstance(schedule, Schedule):
        raise ConfigError(f"schedule={schedule!r} must be a Schedule or the name of its shape")
    whole = whole_of(model, adapter, within)
    return Guidance(adapter, guided, loss, normalization, choice, weight, schedule, total_steps, whole)


def get_guidance(model: nn.Module) -> Guidance:
    """The handle on a guided model. A copy of a guided model has its own handle.

    Examples:
        >>> guidance = guide(model, "next:1")
        >>> get_guidance(model) is guidance
        True

    Args:
        model: a guided model, or a module that contains exactly one.

    Raises:
        AttachError: the model is not guided, or it contains several guided models.
    """
    hooks: list[Any] = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    found: list[Any] = [getattr(hook, "__self__", None) for hook in hooks]
    # With `within=`, one Guidance has hooks on two modules.
    owners: list[Guidance] = list({id(owner): owner for owner in found if isinstance(owner, Guidance)}.values())
    if len(owners) == 1:
        return owners[0]
    name = type(model).__name__
    if not owners:
        raise AttachError(f"this {name} is not guided: call guide(model, ...) first")
    parts = ", ".join(type(owner.model).__name__ for owner in owners)
    raise AttachError(f"this {name} contains {len(owners)} guided models ({parts}): call get_guidance() on one of them")
