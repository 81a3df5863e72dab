"""`guide(model, ...)`: attach guidance to a model of transformers, in place, and the handle it returns."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attention_guidance import attention
from attention_guidance.assignment import GuidedHead, Heads, assign_heads
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.forward_pass import ForwardPass, GuidedLayer
from attention_guidance.inputs_outputs import is_checkpointing, loss_of, named_inputs, share_of_batch
from attention_guidance.loss.aggregate import check_normalization, mean
from attention_guidance.loss.reference import check_objective
from attention_guidance.patterns import Pattern, TokenClasses, get_pattern
from attention_guidance.schedules import Schedule

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from attention_guidance.callback import GuidanceCallback


@dataclass(frozen=True)
class HeadGuidance:
    """How far one guided head was from its pattern: the mean over rows of its squared error (or log mass)."""

    layer: int
    head: int
    pattern: str
    error: float


def guide(
    model: PreTrainedModel,
    heads: Heads,
    weight: float = 0.1,
    *,
    loss: str = "squared_error",
    normalization: str = "query",
    schedule: str | Schedule = "constant",
    total_steps: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
    patterns: Mapping[str, Pattern] | None = None,
) -> Guidance:
    """Guide attention heads of a model toward patterns while it trains.

    The model is changed in place and stays what it was: same class, same parameters, same state dict. In training mode
    ``model(**batch).loss`` becomes objective + weight x guidance; in evaluation mode it stays the objective.

    Args:
        model: a bidirectional encoder of transformers with any head on it.
        heads: which heads follow which pattern, e.g. ``"next:1 previous:1 first:4"`` for every layer; see
            `attention_guidance.assignment`.
        weight: factor on the guidance loss; with `query` normalization, the pull on each guided head.
        loss: `squared_error` (the paper's) or `log_mass` (minus the log of the mass on the targets).
        normalization: `query` (sum over heads of the mean over rows) or `elementwise` (the authors' scale).
        schedule: how the weight changes over training; a `Schedule` or the name of its shape. Anything but `constant`
            needs to hear of the steps: from ``callbacks=[guidance.callback()]`` under Trainer, from ``guidance.step()``
            in a loop of one's own.
        total_steps: length of the run in optimisation steps, where the schedule needs it and no Trainer tells it.
        tokenizer: finds the ids of token classes such as `delimiter` and `period`.
        token_classes: classes of one's own for use in `heads`, by name; see `attention_guidance.patterns.get_pattern`.
        patterns: patterns of one's own for use in `heads`, by name.

    Returns:
        The handle: weights, per-head values, `remove()`.

    Raises:
        AttachError: the model is guided already, is no bidirectional encoder, or does not take its attention through
            transformers' attention interface.
        PatternError: the assignment does not fit the model.
        ConfigError: unknown loss, normalization or schedule; negative weight.
    """
    check_objective(loss)
    check_normalization(normalization, loss)
    if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise ConfigError(f"weight={weight!r} must be 0 or a positive number")
    modules = _guidable_modules(model)
    n_heads = model.config.get_text_config().num_attention_heads
    guided = assign_heads(
        heads, len(modules), n_heads, lambda name: get_pattern(name, tokenizer, token_classes, patterns)
    )
    layers = {
        number: GuidedLayer(number, [head for head in guided if head.layer == number], loss, normalization)
        for number in sorted({head.layer for head in guided})
    }
    schedule = Schedule(schedule) if isinstance(schedule, str) else schedule
    if not isinstance(schedule, Schedule):
        raise ConfigError(f"schedule={schedule!r} must be a Schedule or the name of its shape")
    guidance = Guidance(model, weight, schedule, total_steps)
    guidance._attach({modules[number]: layer for number, layer in layers.items()})
    return guidance


def _guidable_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The model's attention modules in the order of its layers, one a layer."""
    name = type(model).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise AttachError(f"{name} is not a model of transformers; guide() needs a PreTrainedModel")
    modules = list(attention.attention_modules(model))
    if any(attention.OBSERVER in module.__dict__ for module in modules):
        raise AttachError(f"this {name} is guided already; call remove() on its guidance first")
    if not modules:
        raise AttachError(
            f"{name} does not take its attention through transformers' attention interface, so it cannot be guided; "
            "BERT, RoBERTa, ELECTRA, ModernBERT, ViT, Wav2Vec2 and many others can"
        )
    n_layers = model.config.get_text_config().num_hidden_layers
    causal = getattr(model.config, "is_decoder", False) or any(getattr(m, "is_causal", False) for m in modules)
    if causal or len(modules) != n_layers:
        what = "it is a decoder" if causal else f"it has {len(modules)} attention modules for {n_layers} layers"
        raise AttachError(f"{name} cannot be guided: {what}; guidance is for bidirectional encoders")
    if model.config._attn_implementation not in {*attention.GUIDED_NAMES, *attention.GUIDED_NAMES.values()}:
        raise AttachError(
            f"{name} runs with attn_implementation={model.config._attn_implementation!r}; guidance stands beside "
            f"{' and '.join(attention.GUIDED_NAMES)}: call model.set_attn_implementation('sdpa') first"
        )
    return modules


class Guidance:
    """The handle on a guided model, made by `guide`.

    Attributes:
        model: the guided model.
        weight: the full weight, before the schedule.
        schedule: how it changes over training.
        total_steps: length of the run in optimisation steps, if known.
        steps_done: optimisation steps made so far.
    """

    def __init__(
        self, model: PreTrainedModel, weight: float, schedule: Schedule, total_steps: int | None = None
    ) -> None:
        self.model = model
        self.weight = weight
        self.schedule = schedule
        self.total_steps = total_steps
        self.steps_done = 0
        self._layers: dict[nn.Module, GuidedLayer] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._base = "sdpa"
        self._measuring = False
        self._last: ForwardPass | None = None
        self._pending: weakref.ref[Tensor] | None = None
        self._measured: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is left of the last pass, so that a guided model can be copied and pickled."""
        return self.__dict__ | {"_last": None, "_pending": None, "_measured": None, "_measuring": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        attention.register()
        if self._hooks:
            _ATTACHED.add(self)

    # Attaching and removing

    def _attach(self, layers: dict[nn.Module, GuidedLayer]) -> None:
        attention.register()
        current = self.model.config._attn_implementation
        # A model whose config is shared with a guided one bears the guided name already.
        bases = {name: base for base, name in attention.GUIDED_NAMES.items()}
        self._base = bases.get(current, current)
        for module in layers:
            attention.base_attention(module, self._base)
        self._layers = layers
        self.model.set_attn_implementation(attention.GUIDED_NAMES[self._base])
        for module, layer in layers.items():
            setattr(module, attention.OBSERVER, layer)
        self._self_normalizing = attention.calls(self.model, "loss_function")
        # Bound methods, so that a copy of the model gets a copy of its guidance.
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end, with_kwargs=True, always_call=True),
        ]
        _ATTACHED.add(self)

    def remove(self) -> None:
        """Give the model back as it was: its attention implementation, its hooks, its modules. Idempotent.

        What was measured can still be read from the handle.
        """
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        for module in self._layers:
            module.__dict__.pop(attention.OBSERVER, None)
        self._hooks = []
        _ATTACHED.discard(self)
        # Models can share a config; the attention's name goes back with the last of the guided ones.
        if not any(other.model.config is self.model.config for other in _ATTACHED):
            self.model.set_attn_implementation(self._base)

    # One forward pass

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if getattr(model, "_is_replica", False):
            raise AttachError("nn.DataParallel cannot be guided; use DistributedDataParallel (torchrun)")
        active = model.training or self._measuring
        for layer in self._layers.values():
            layer.recording = active
        if not active:
            return
        if model.training and self._pending is not None and self._pending() is not None:
            raise AttachError(
                "under gradient checkpointing, guidance needs each training pass's backward() before the next forward "
                "pass: recomputation would take the targets of the later one"
            )
        weighted = model.training and self.current_weight > 0
        current = ForwardPass.of_inputs(named_inputs(model, args, kwargs), weighted)
        for layer in self._layers.values():
            layer.current = current

    def _end(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        first = next(iter(self._layers.values()))
        recorded, current = first.recording, first.current
        for layer in self._layers.values():
            layer.recording = False
        # No output: the forward pass has raised.
        if not recorded or current is None or output is None:
            return output
        missing = [layer.layer for layer in self._layers.values() if layer.layer not in current.layers]
        if missing:
            raise AttachError(
                f"{type(self.model).__name__} never called the guided attention of layers {missing}: it would train "
                "unguided; its attention does not go through transformers' attention interface, or "
                f"set_attn_implementation was called after guide() (now {self.model.config._attn_implementation!r})"
            )
        self._last = current
        if not self._measuring:
            self._measured = None
        else:
            sums, counts = self._sums_and_counts()
            before = self._measured or (torch.zeros_like(sums), torch.zeros_like(counts))
            self._measured = before[0] + sums, before[1] + counts
        return self._with_guidance(named_inputs(model, args, kwargs), output) if model.training else output

    def _with_guidance(self, inputs: Mapping[str, Any], output: Any) -> Any:
        """The model's output with guidance added to its loss, if it has one."""
        objective = loss_of(output)
        if objective is None:
            return output
        share = share_of_batch(inputs)
        if share is not None and not self._self_normalizing:
            objective = objective * share
        total = objective
        if self.current_weight:
            total = objective + (1 if share is None else share) * self.loss()
        if total.requires_grad and is_checkpointing(self.model):
            self._pending = weakref.ref(total)
            total.register_hook(self._settle)  # type: ignore[no-untyped-call]
        if isinstance(output, Tensor):
            return total
        if isinstance(output, tuple):
            return (total, *output[1:])
        output["loss"] = total
        return output

    def _settle(self, gradient: Tensor) -> None:
        """The backward pass of the last training pass has begun."""
        self._pending = None

    def loss(self) -> Tensor:
        """Weight x guidance of the last forward pass in training mode: what `model(**batch).loss` already holds.

        For loops that compute their own objective from the model's logits (called without ``labels``): add it there.

        Returns:
            A scalar with gradient.

        Raises:
            AttachError: no forward pass in training mode has been made yet.
        """
        if self._last is None:
            raise AttachError("no guided forward pass yet: call the model in training mode first")
        terms = [layer.loss for layer in self._last.layers.values()]
        return self.current_weight * torch.stack(terms).sum()

    # Progress

    @property
    def current_weight(self) -> float:
        """The weight at the current step: full weight x schedule."""
        return self.weight * self.schedule.factor(self.steps_done, self.total_steps)

    def step(self) -> None:
        """Tell that an optimisation step was made; for loops of one's own with a schedule that is not constant."""
        self.steps_done += 1

    def callback(self) -> GuidanceCallback:
        """A callback for transformers' Trainer: tells the schedule of the steps and adds guidance to the logs."""
        from attention_guidance.callback import GuidanceCallback

        return GuidanceCallback(self)

    # Looking

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads, in the order of `per_head`."""
        return tuple(head for layer in self._layers.values() for head in layer.heads)

    def per_head(self) -> list[HeadGuidance]:
        """How far each guided head was from its pattern: in the last training pass or, after `measure`, over all of it.

        Raises:
            AttachError: no guided pass has been made yet.
        """
        values = mean(*(self._measured or self._sums_and_counts()))
        errors: list[float] = values.tolist()
        return [
            HeadGuidance(head.layer, head.head, head.pattern.name, error)
            for head, error in zip(self.heads, errors, strict=True)
        ]

    @contextmanager
    def measure(self) -> Iterator[Guidance]:
        """Measure guidance in evaluation mode too, and average `per_head` over the batches seen inside.

        Example::

            with guidance.measure(), torch.no_grad():
                for batch in batches:
                    model(**batch)
            guidance.per_head()
        """
        self._measuring, self._measured, self._last = True, None, None
        try:
            yield self
        finally:
            self._measuring = False

    def _sums_and_counts(self) -> tuple[Tensor, Tensor]:
        if self._last is None:
            raise AttachError("no guided forward pass yet: call the model in training mode, or within measure()")
        layers = [self._last.layers[layer.layer] for layer in self._layers.values()]
        return torch.cat([layer.sums for layer in layers]), torch.cat([layer.counts for layer in layers])


# All handles whose models are guided now; several of these may share a config.
_ATTACHED: weakref.WeakSet[Guidance] = weakref.WeakSet()
