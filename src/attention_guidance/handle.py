"""The handle on a guided model: its hooks, its weight, and a look at its heads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import AttachError
from attention_guidance.forward_pass import ForwardPass
from attention_guidance.guided_layer import GuidedLayer
from attention_guidance.hosts.call import Host
from attention_guidance.hosts.interface import normalizes_its_loss
from attention_guidance.inputs_outputs import loss_of, named_inputs, share_of_batch
from attention_guidance.loss.aggregate import mean
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.layers import LayerLoss, layer_losses
from attention_guidance.patterns import GIVEN
from attention_guidance.schedules import Schedule

if TYPE_CHECKING:
    from attention_guidance.callback import GuidanceCallback


@dataclass(frozen=True)
class HeadGuidance:
    """How far one guided head was from its pattern: the mean over rows of its squared error (or log mass)."""

    layer: int
    head: int
    pattern: str
    error: float


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
        self,
        host: Host,
        layers: Iterable[GuidedLayer],
        backend: BackendChoice,
        weight: float,
        schedule: Schedule,
        total_steps: int | None = None,
        within: nn.Module | None = None,
    ) -> None:
        self.model = host.model
        self._whole = getattr(within, "_orig_mod", within) or host.model
        self.weight = weight
        self.schedule = schedule
        self.total_steps = total_steps
        self.steps_done = 0
        self._host = host
        self._layers = tuple(layers)
        self._backend = backend
        self._measuring = False
        self._last: ForwardPass | None = None
        self._measured: tuple[Tensor, Tensor] | None = None
        # Whether the guidance of the last pass has been added to a loss.
        self._joined = True
        host.attach({layer.layer: layer for layer in self._layers})
        # Bound methods, so that a copy of the model gets a copy of its guidance.
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end, always_call=True),
            self._whole.register_forward_hook(self._join, with_kwargs=True),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is left of the last pass, so that a guided model can be copied and pickled."""
        return self.__dict__ | {"_last": None, "_measured": None, "_measuring": False}

    def remove(self) -> None:
        """Give the model back as it was: its attention implementation, its hooks, its modules. Idempotent.

        What was measured can still be read from the handle.
        """
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._host.detach()

    # One forward pass

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if getattr(model, "_is_replica", False):
            raise AttachError("nn.DataParallel cannot be guided; use DistributedDataParallel (torchrun)")
        # Targets in the batch are for guidance; the model does not know of them.
        model_kwargs = {name: value for name, value in kwargs.items() if name != GIVEN}
        self._host.begin_pass()
        active = model.training or self._measuring
        for layer in self._layers:
            layer.recording = active
        if not active:
            return args, model_kwargs
        weighted = model.training and self.current_weight > 0
        inputs = named_inputs(model, args, model_kwargs) | ({GIVEN: kwargs[GIVEN]} if GIVEN in kwargs else {})
        current = ForwardPass(inputs, self._host.patch_size, torch.is_grad_enabled(), weighted)
        for layer in self._layers:
            layer.current = current
        return args, model_kwargs

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorded, current = self._layers[0].recording, self._layers[0].current
        for layer in self._layers:
            layer.recording = False
        # No output: the forward pass has raised.
        if not recorded or current is None or output is None:
            return
        current.layers = layer_losses(current.rows, self._layers[0].objective, self._layers[0].normalization)
        current.rows = {}
        missing = [layer.layer for layer in self._layers if layer.layer not in current.layers]
        if missing and self._host.skips_layers and model.training:
            for layer in self._layers:
                if layer.layer in missing:
                    current.layers[layer.layer] = self._skipped(layer)
        elif missing:
            raise AttachError(
                f"{type(self.model).__name__} never called the guided attention of layers {missing}: it would train "
                f"unguided; {self._host.hint}"
            )
        self._last = current
        if not self._measuring:
            self._measured = None
        else:
            sums, counts = self._sums_and_counts()
            before = self._measured or (torch.zeros_like(sums), torch.zeros_like(counts))
            self._measured = before[0] + sums, before[1] + counts
        self._joined = False

    def _join(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Add the guidance of the pass to the loss of the model, or of that which it is a part of."""
        if not model.training or output is None:
            return output
        if self._joined:
            raise AttachError(
                f"{type(model).__name__} never called its part {type(self.model).__name__} in this pass, in training "
                "mode: it would train unguided"
            )
        self._joined = True
        return self._with_guidance(named_inputs(model, args, kwargs), output)

    def _skipped(self, layer: GuidedLayer) -> LayerLoss:
        """What a layer adds to a pass that leaves it out."""
        device = next(self.model.parameters()).device
        sums, counts = torch.zeros(len(layer.guided), device=device), torch.zeros(len(layer.guided), device=device)
        return LayerLoss(torch.zeros((), device=device), sums, counts.long())

    def _with_guidance(self, inputs: Mapping[str, Any], output: Any) -> Any:
        """The model's output with guidance added to its loss, if it has one."""
        objective = loss_of(output)
        if objective is None:
            return output
        share = share_of_batch(inputs)
        if self._whole is not self.model:
            # Several may join the loss of one whole: it stays as it is, and guidance goes as it goes.
            share = share if normalizes_its_loss(self._whole) else None
        elif share is not None and not self._host.self_normalizing:
            objective = objective * share
        total = objective
        if self.current_weight:
            total = objective + (1 if share is None else share) * self.loss()
        if isinstance(output, Tensor):
            return total
        if isinstance(output, tuple):
            named = hasattr(output, "_make")
            return type(output)._make((total, *output[1:])) if named else (total, *output[1:])  # type: ignore[attr-defined]
        output["loss"] = total
        return output

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
        return tuple(head for layer in self._layers for head in layer.heads)

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

    def rows_per_head(self) -> list[int]:
        """How many rows counted for each of `per_head`: the query is a token and has a target.

        Where none did, the error is 0 and says nothing.

        Raises:
            AttachError: no guided pass has been made yet.
        """
        rows: list[int] = (self._measured or self._sums_and_counts())[1].tolist()
        return rows

    def explain_backend(self) -> str:
        """Which backend computed the guided heads of the last pass, and why not the others: a few lines of text."""
        return self._backend.explain()

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
        layers = [self._last.layers[layer.layer] for layer in self._layers]
        return torch.cat([layer.sums for layer in layers]), torch.cat([layer.counts for layer in layers])
