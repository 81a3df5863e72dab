"""`Guidance`: the handle on a guided model, with its hooks, weight and per-head errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from attention_guidance.adapters.base import Adapter
from attention_guidance.adapters.inputs_outputs import loss_of, share_of_batch, with_loss
from attention_guidance.adapters.modules import normalizes_its_loss
from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import AttachError
from attention_guidance.forward.first_loss import FirstLoss
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.forward.hooked_forward import HookedForward
from attention_guidance.forward.layer import LayerProcessor
from attention_guidance.forward.passes import Passes
from attention_guidance.loss.aggregate import mean
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.layers import no_loss
from attention_guidance.lost_guidance import LostGuidance
from attention_guidance.patterns import GIVEN
from attention_guidance.schedules import RelativeWeight, Schedule, checked_weight

if TYPE_CHECKING:
    from attention_guidance.callback import GuidanceCallback


@dataclass(frozen=True)
class HeadGuidance:
    """How far one guided head was from its pattern: its squared error (or log mass), averaged over rows.

    Examples:
        >>> guidance = guide(model, "next@3")
        >>> loss = model(**batch).loss
        >>> last = guidance.per_head()[-1]
        >>> last.layer, last.head, last.pattern, 0 <= last.error <= 2
        (1, 3, 'next', True)
    """

    layer: int
    head: int
    pattern: str
    error: float


class Guidance:
    """The handle on a guided model, made by `guide`.

    Examples:
        >>> with guide(model, "next:1 first:1", schedule="linear", total_steps=100) as guidance:
        ...     for batch in batches:
        ...         model(**batch).loss.backward()
        ...         guidance.step()
        ...     print([(head.layer, head.head, head.pattern) for head in guidance.per_head()])
        [(0, 0, 'next'), (0, 1, 'first'), (1, 0, 'next'), (1, 1, 'first')]

    Attributes:
        model: the guided model.
        schedule: how the weight changes over training.
        total_steps: length of the run in optimisation steps, if known.
        steps_done: optimisation steps made so far.
    """

    def __init__(
        self,
        adapter: Adapter,
        heads: Iterable[GuidedHead],
        loss: str,
        normalization: str,
        backend: BackendChoice,
        weight: float | RelativeWeight,
        schedule: Schedule,
        total_steps: int | None = None,
        within: nn.Module | None = None,
    ) -> None:
        self.model: nn.Module = adapter.model
        self._whole = getattr(within, "_orig_mod", within) or adapter.model
        self._relative = weight if isinstance(weight, RelativeWeight) else None
        self.weight = 0.0 if isinstance(weight, RelativeWeight) else weight
        # None once the weight is known.
        self._first = None if self._relative is None else FirstLoss()
        self.schedule: Schedule = schedule
        self.total_steps: int | None = total_steps
        self.steps_done: int = 0
        self._adapter = adapter
        self._objective, self._normalization = loss, normalization
        self._backend = backend
        self._passes = Passes(type(self.model).__name__, self._is_weighted)
        by_layer: dict[int, list[GuidedHead]] = {}
        for head in heads:
            by_layer.setdefault(head.layer, []).append(head)
        self._layers = tuple(
            LayerProcessor(layer, by_layer[layer], loss, backend, self._passes) for layer in sorted(by_layer)
        )
        self._lost = LostGuidance(self._whole, self.heads)
        # Whether the guided model was called since the last call of the module that contains it.
        self._called = False
        adapter.attach({layer.number: layer for layer in self._layers})
        modules = [self.model] if self._whole is self.model else [self.model, self._whole]
        self._forwards = [HookedForward(module) for module in modules]
        # Hooks are bound methods, so that copying the model also copies its guidance.
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end, always_call=True),
            self._whole.register_forward_hook(self._join, with_kwargs=True),
        ]
        if self._whole is not self.model:
            self._hooks.append(self._whole.register_forward_pre_hook(self._begin_whole))
            self._hooks.append(self._whole.register_forward_hook(self._end_whole, always_call=True))

    def remove(self) -> None:
        """Restore the model's own attention implementation, hooks and modules. Idempotent.

        Measurements can still be read from the handle.
        """
        if not self._hooks:
            return
        for hook in [*self._hooks, *reversed(self._forwards)]:
            hook.remove()
        self._hooks, self._forwards = [], []
        self._adapter.detach()

    def __enter__(self) -> Self:
        """Guide the model inside a `with` block, and no longer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        """A summary: the settings, and the guided heads of each layer with their errors, as far as they are known."""
        n_heads = self._adapter.n_layers * self._adapter.n_heads
        measured = self._passes.measured is not None or self._passes.of_the_loss()
        errors = [f" {head.error:.4f}" for head in self.per_head()] if measured else [""] * len(self.heads)
        state = "" if self._hooks else ", removed"
        known = self.total_steps is not None or not self.schedule.needs_total
        now = f", now {self.current_weight:g}" if known and self.schedule.shape != "constant" else ""
        weight = f"{self.weight:g}" if self._first is None else "not known before the first step"
        if self._relative is not None:
            weight = f"{self._relative.ratio:g} x the first loss = {weight}"
        lines = [
            f"{len(self.heads)} of {n_heads} heads of {type(self.model).__name__} guided{state}: "
            f"weight {weight} ({self.schedule.shape}{now}), {self._objective}, backend {self._backend}"
        ]
        for layer in self._layers:
            of_layer = [
                f"{head.pattern.name}@{head.head}{error}"
                for head, error in zip(self.heads, errors, strict=True)
                if head.layer == layer.number
            ]
            lines.append(f"  layer {layer.number}: {', '.join(of_layer)}")
        return "\n".join(lines)

    # One forward pass

    def _begin_whole(self, whole: nn.Module, args: tuple[Any, ...]) -> None:
        self._passes.begin_whole()

    def _end_whole(self, whole: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._passes.within_whole = False

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if getattr(model, "_is_replica", False):
            raise AttachError("nn.DataParallel cannot be guided; use DistributedDataParallel (torchrun)")
        # Targets in the batch are for guidance only: the model's forward has no such argument.
        model_kwargs = {name: value for name, value in kwargs.items() if name != GIVEN}
        self._adapter.begin_pass()
        if not (model.training or self._passes.measuring):
            self._passes.current, self._passes.evaluates = None, True
            return args, model_kwargs
        if not torch.compiler.is_compiling():
            self._lost.check(self._passes.untrained(), self.schedule, self.steps_done, self._first is not None)
        inputs = self._forwards[0].named_inputs(args, model_kwargs) | (
            {GIVEN: kwargs[GIVEN]} if GIVEN in kwargs else {}
        )
        self._passes.begin(inputs, self._adapter.patch_size, model.training)
        return args, model_kwargs

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ended, self._passes.current = self._passes.current, None
        # There is no output if the forward pass raised.
        if ended is None or output is None:
            never_trained = self._passes.last is None and torch.is_grad_enabled() and self._is_weighted()
            if output is not None and never_trained and not torch.compiler.is_compiling():
                self._lost.watch_evaluation(output)
            return
        self._adapter.end_pass()
        ended.end(self._objective, self._normalization)
        missing = [layer for layer in self._layers if layer.number not in ended.layers]
        if missing and not (self._adapter.skips_layers and model.training):
            raise AttachError(
                f"{type(self.model).__name__} never called the guided attention of layers "
                f"{[layer.number for layer in missing]}: it would train unguided; {self._adapter.hint}"
            )
        for layer in missing:
            ended.layers[layer.number] = no_loss(len(layer.guided), next(model.parameters()).device)
        self._passes.keep(ended)
        if ended.trains and not torch.compiler.is_compiling():
            self._lost.count(ended)
        self._called = True

    def _join(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Add the guidance of the passes to the loss of the model, or of the module passed as `within`."""
        if not model.training or output is None:
            return output
        called, self._called = self._called, False
        if not called and loss_of(output) is not None:
            raise AttachError(
                f"{type(model).__name__} did not call its part {type(self.model).__name__} in training mode in this "
                "pass: it would train unguided"
            )
        return self._with_guidance(self._forwards[-1].named_inputs(args, kwargs), output)

    def _join_loss_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Add the guidance of the passes to the output of a Trainer's loss module: a loss, or its parts by name."""
        if self._first is not None and self.model.training and torch.is_grad_enabled():
            self._first.add(output if isinstance(output, Tensor) else torch.stack([*output.values()]).sum(), None)
        if not self._passes.without_loss:
            return output
        guidance = self._guidance_loss(self._passes.of_the_loss(), added=True)
        return output + guidance if isinstance(output, Tensor) else {**output, "guidance_loss": guidance}

    def _join_losses_of(self, modules: Iterable[nn.Module]) -> None:
        """Add guidance to the losses of modules that call the model, as in SentenceTransformerTrainer. Idempotent.

        Args:
            modules: modules that return a loss, or a dict of its parts.
        """
        for module in modules:
            joined = any(getattr(hook, "__self__", None) is self for hook in module._forward_hooks.values())
            if self._hooks and not joined and any(part is self.model for part in module.modules()):
                self._hooks.append(module.register_forward_hook(self._join_loss_module))

    def _with_guidance(self, inputs: Mapping[str, Any], output: Any) -> Any:
        """The model's output with guidance added to its loss, if it has one."""
        objective = loss_of(output)
        if objective is None:
            return output
        share = share_of_batch(inputs)
        if self._whole is not self.model:
            # Several guidances may be added to one module's loss, so do not rescale that loss: scale guidance like it.
            share = share if share is not None and self._is_scaled() else None
        elif share is not None and not self._adapter.self_normalizing:
            objective = objective * share
        if self._first is not None and torch.is_grad_enabled():
            if torch.compiler.is_compiling():
                raise AttachError(
                    "the first loss, of which a relative weight is a multiple, cannot be read under torch.compile: "
                    "make the first step without it, or give the weight as a number"
                )
            self._first.add(objective, share)
        total = objective
        last = self._passes.last
        # A pass without gradients reports its own guidance only: earlier passes belong to a loss that is yet to come.
        passes = [last] if last is not None and not last.trains else self._passes.of_the_loss()
        if self.current_weight:
            total = objective + (1 if share is None else share) * self._guidance_loss(passes, added=True)
        return with_loss(output, total)

    def _is_scaled(self) -> bool:
        """Whether the loss of `within` is a share of the batch's, by itself or by guidance of its cross-attention."""
        owners = [getattr(hook, "__self__", None) for hook in self._whole._forward_hooks.values()]
        before = owners[: owners.index(self)]
        scaled = any(isinstance(owner, Guidance) and owner.model is self._whole for owner in before)
        return scaled or normalizes_its_loss(self._whole)

    def loss(self) -> Tensor:
        """Weight x guidance of the training passes since the last loss.

        ``model(**batch).loss`` already includes it. If you compute the objective from the model's logits, without
        passing ``labels``, add it yourself. It includes every call of the model for that objective (two texts, two
        views); the next training pass starts a new sum. After a call in evaluation mode, it is 0.

        Returns:
            A scalar with gradient.

        Raises:
            AttachError: there was no forward pass in training mode yet, or the weight is relative to a loss that the
                library does not see.
        """
        if self._passes.evaluates and not self._passes.without_loss:
            return torch.zeros((), device=next(self.model.parameters()).device)
        if self._first is not None and not self._first.seen:
            raise AttachError(
                "the weight is relative to the loss in the model's output, and there is none yet: pass labels to the "
                "model, or give the weight as a number"
            )
        passes = self._passes.of_the_loss()
        if not passes:
            raise AttachError("no guided forward pass yet: call the model in training mode first")
        return self._guidance_loss(passes, added=False)

    def _guidance_loss(self, passes: list[ForwardPass], added: bool) -> Tensor:
        terms = [layer.loss for one in passes for layer in one.layers.values()]
        total: Tensor = self.current_weight * torch.stack(terms).sum()
        if any(one.trains for one in passes):
            self._passes.join(total, added)
        if not torch.compiler.is_compiling():
            self._lost.check_trainable(passes)
        return total

    # Progress

    @property
    def weight(self) -> float:
        """The full weight, before the schedule: a finite number, 0 or above.

        A `RelativeWeight` is 0 in the first step. In a loop of your own, save this number with a checkpoint, and set it
        after a resume.

        Raises:
            ConfigError: set to an invalid value.
        """
        return self._weight

    @weight.setter
    def weight(self, weight: float) -> None:
        self._weight = checked_weight(weight)
        self._first = None

    @property
    def current_weight(self) -> float:
        """The weight at the current step: full weight x schedule."""
        return self.weight * self.schedule.factor(self.steps_done, self.total_steps)

    def _is_weighted(self) -> bool:
        return self.current_weight > 0

    def step(self) -> None:
        """Count an optimisation step.

        Call it in your own training loop, on all ranks, if the schedule is not constant or the weight is relative.
        """
        self.steps_done += 1
        self._end_step()

    def _end_step(self) -> bool:
        """End an optimisation step; returns whether a relative weight is known from now on."""
        if self._relative is None or self._first is None:
            return False
        size = self._first.size(next(self.model.parameters()).device)
        if size is not None:
            self.weight = self._relative.ratio * size
        return size is not None

    def _restore(self, weight: float) -> None:
        """Set what a relative weight came to before a resume. A weight that was given as a number stays."""
        if self._relative is not None:
            self.weight = weight

    def callback(self) -> GuidanceCallback:
        """A callback for transformers' Trainer that advances the schedule and adds guidance to the logs."""
        from attention_guidance.callback import GuidanceCallback

        return GuidanceCallback(self)

    # Measurements

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads, in the order of `per_head`."""
        return tuple(head for layer in self._layers for head in layer.heads)

    def per_head(self) -> list[HeadGuidance]:
        """How far each guided head was from its pattern: in the last loss or, after `measure`, over all its batches.

        The last loss may include several passes; see `loss`.

        Raises:
            AttachError: there was no guided forward pass yet.
        """
        values = mean(*self._sums_and_counts())
        errors: list[float] = values.tolist()
        return [
            HeadGuidance(head.layer, head.head, head.pattern.name, error)
            for head, error in zip(self.heads, errors, strict=True)
        ]

    def rows_per_head(self) -> list[int]:
        """The number of rows behind each value of `per_head`: rows whose query is a token and has a target.

        If there are none, the head's error is 0 and means nothing.

        Raises:
            AttachError: there was no guided forward pass yet.
        """
        rows: list[int] = self._sums_and_counts()[1].tolist()
        return rows

    def explain_backend(self) -> str:
        """A few lines of text: the backend that computed the last pass, and why the others did not."""
        return self._backend.explain()

    @contextmanager
    def measure(self) -> Iterator[Guidance]:
        """Measure guidance in evaluation mode too, and average `per_head` over all batches inside the block.

        Examples:
            >>> guidance = guide(model.eval(), "next:1")
            >>> with guidance.measure(), torch.no_grad():
            ...     for batch in batches:
            ...         output = model(**batch)
            >>> len(guidance.per_head())
            2
        """
        self._passes.measuring, self._passes.measured, self._passes.last = True, None, None
        try:
            yield self
        finally:
            self._passes.measuring = False

    def _sums_and_counts(self) -> tuple[Tensor, Tensor]:
        if self._passes.measured is not None:
            return self._passes.measured
        passes = self._passes.of_the_loss()
        if not passes:
            raise AttachError("no guided forward pass yet: call the model in training mode, or within measure()")
        sums, counts = zip(*(one.sums_and_counts() for one in passes), strict=True)
        return torch.stack(sums).sum(0), torch.stack(counts).sum(0)
