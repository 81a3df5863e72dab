"""`Guidance`: the handle on a guided model, with its hooks, weight and per-head errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from attention_guidance.adapters.base import Adapter
from attention_guidance.assignment import GuidedHead, HeadGuidance
from attention_guidance.errors import AttachError
from attention_guidance.forward.hooked_forward import HookedForward
from attention_guidance.forward.joined_losses import JoinedLosses
from attention_guidance.forward.layer import LayerProcessor
from attention_guidance.forward.lost_guidance import LostGuidance
from attention_guidance.forward.passes import Passes
from attention_guidance.loss.aggregate import mean
from attention_guidance.loss.backends import BackendChoice
from attention_guidance.loss.layers import no_loss
from attention_guidance.patterns import GIVEN
from attention_guidance.schedules import RelativeWeight, Schedule
from attention_guidance.weight import GuidanceWeight

if TYPE_CHECKING:
    from attention_guidance.callback import GuidanceCallback


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
        self._weight = GuidanceWeight(weight, schedule, total_steps)
        self._adapter = adapter
        self._objective, self._normalization = loss, normalization
        self._backend = backend
        self._passes = Passes(type(self.model).__name__, self._weight)
        layer_of = attrgetter("layer")
        self._layers = tuple(
            LayerProcessor(layer, of_layer, loss, backend, self._passes)
            for layer, of_layer in groupby(sorted(heads, key=layer_of), layer_of)
        )
        self._lost = LostGuidance(self._whole, self.heads, self._passes, self._weight)
        adapter.attach({layer.number: layer for layer in self._layers})
        self._forwards = [HookedForward(module) for module in dict.fromkeys((self.model, self._whole))]
        # Hooks are bound methods, so that copying the model also copies its guidance.
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end, always_call=True),
        ]
        self._losses = JoinedLosses(adapter, self._forwards[-1], self._passes, self._weight, self._lost)
        if self._whole is not self.model:
            self._hooks.append(self._whole.register_forward_pre_hook(self._begin_whole))
            self._hooks.append(self._whole.register_forward_hook(self._end_whole, always_call=True))

    def remove(self) -> None:
        """Restore the model's own attention implementation, hooks and modules. Idempotent.

        Measurements can still be read from the handle.
        """
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._losses.remove()
        for forward in reversed(self._forwards):
            forward.remove()
        self._hooks, self._forwards = [], []
        self._adapter.detach()

    def __enter__(self) -> Self:
        """Guide the model inside a `with` block, and no longer."""
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()

    def __str__(self) -> str:
        """A summary: the settings, and the guided heads of each layer with their errors, as far as they are known."""
        n_heads = self._adapter.n_layers * self._adapter.n_heads
        measured = self.per_head() if self._passes.seen else []
        errors = {(head.layer, head.head): f" {head.error:.4f}" for head in measured}
        state = "" if self._hooks else ", removed"
        lines = [
            f"{len(self.heads)} of {n_heads} heads of {type(self.model).__name__} guided{state}: "
            f"weight {self._weight}, {self._objective}, backend {self._backend}"
        ]
        for layer in self._layers:
            of_layer = [
                f"{head.pattern.name}@{head.head}{errors.get((head.layer, head.head), '')}" for head in layer.heads
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
        self._lost.check()
        inputs = self._forwards[0].named_inputs(args, model_kwargs) | (
            {GIVEN: kwargs[GIVEN]} if GIVEN in kwargs else {}
        )
        self._passes.begin(inputs, self._adapter.patch_size, model.training)
        return args, model_kwargs

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ended, self._passes.current = self._passes.current, None
        # There is no output if the forward pass raised.
        if ended is None or output is None:
            if output is not None:
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
        self._lost.count(ended)
        self._losses.called = True

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
        return self._losses.unjoined()

    # Progress

    @property
    def weight(self) -> float:
        """The full weight, before the schedule: a finite number, 0 or above.

        A `RelativeWeight` is 0 in the first step. In a loop of your own, save this number with a checkpoint, and set it
        after a resume.

        Raises:
            ConfigError: set to an invalid value.
        """
        return self._weight.full

    @weight.setter
    def weight(self, weight: float) -> None:
        self._weight.full = weight

    @property
    def schedule(self) -> Schedule:
        """How the weight changes over training."""
        return self._weight.schedule

    @schedule.setter
    def schedule(self, schedule: Schedule) -> None:
        self._weight.schedule = schedule

    @property
    def total_steps(self) -> int | None:
        """Length of the run in optimisation steps, if known."""
        return self._weight.total_steps

    @total_steps.setter
    def total_steps(self, total_steps: int | None) -> None:
        self._weight.total_steps = total_steps

    @property
    def steps_done(self) -> int:
        """Optimisation steps made so far. In a loop that counts them itself, set it instead of calling `step`."""
        return self._weight.steps_done

    @steps_done.setter
    def steps_done(self, steps_done: int) -> None:
        self._weight.steps_done = steps_done

    @property
    def current_weight(self) -> float:
        """The weight at the current step: full weight x schedule."""
        return self._weight.current

    def step(self) -> None:
        """Count an optimisation step.

        Call it in your own training loop, on all ranks, if the schedule is not constant or the weight is relative.
        """
        self.steps_done += 1
        self._weight.end_step(next(self.model.parameters()).device)

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
        errors: list[float] = mean(*self._passes.sums_and_counts()).tolist()
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
        rows: list[int] = self._passes.sums_and_counts()[1].tolist()
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
        with self._passes.measure():
            yield self
