"""`without_heads(model, ...)`: run a model without some of its heads.

It uses the same adapters as guidance, so every model that can be guided can be ablated. The attention of a layer with
removed heads is computed here, by torch's SDPA; all other layers compute their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_guidance.adapters import adapter_of
from attention_guidance.adapters.base import ABLATING, Result
from attention_guidance.adapters.inputs_outputs import check_class_token
from attention_guidance.analysis.given import Batch, batches_of
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.forward.forward_pass import ForwardPass
from attention_guidance.forward.hooked_forward import HookedForward
from attention_guidance.forward.layer import check_positions
from attention_guidance.forward.modes import evaluating
from attention_guidance.loss.call import AttentionCall, Call
from attention_guidance.patterns import GIVEN, Pattern, TokenClasses, checked_pattern, get_pattern
from attention_guidance.patterns.targets import sums_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: A head: its layer and its number in the layer, from 0.
Place = tuple[int, int]
#: What is in place of a head: `zero`, `mean`, a pattern or its name, or the pattern of each head.
To = str | Pattern | Mapping[Place, Pattern | str]
# The output of a removed head: zero, a constant [D], or the mean of the values at the targets of a pattern.
Replacement = Tensor | Pattern | None


@contextmanager
def without_heads(
    model: nn.Module,
    heads: Iterable[Place],
    to: To = "zero",
    *,
    batches: Iterable[Batch] | Batch | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    token_classes: TokenClasses | None = None,
) -> Iterator[None]:
    """Run a model without some of its heads inside a `with` block, in evaluation mode; afterwards, it is as before.

    Examples:
        >>> with without_heads(model, [(0, 3), (1, 0)]):
        ...     loss = model(**batch).loss

    Args:
        model: any unguided model that `guide` accepts.
        heads: layer and number of each head to remove, from 0; pairs, or rows of an array.
        to: what a removed head puts out instead, before the output projection. `zero`: zeros. `mean`: at every
            position, the mean of the head's output over all tokens of `batches` (no padding), in the whole model. A
            pattern or its name: attention to the pattern's targets alone, evenly; a query without a target keeps its
            attention. A mapping has a pattern for each head.
        batches: inputs of the model, for `mean`: as in `take_census`.
        tokenizer: the model's tokenizer; required for texts and for token classes.
        token_classes: user-defined token classes, as in `guide`.

    Raises:
        AttachError: the model is guided, is without heads already, or its attention cannot be replaced; also in the
            block, if the attention of a layer is never called.
        ConfigError: a head that the model does not have, or `mean` without batches.
        PatternError: an unknown pattern, or one that the inputs have no targets for.
    """
    removal = HeadRemoval(model)
    places = removal.checked(heads)
    given = list(batches_of(batches, tokenizer)) if batches is not None else []
    with removal.attached():
        removal.removed = removal.replacements(places, to, given, tokenizer, token_classes)
        yield


@torch.no_grad()
def check_targets(model: nn.Module, pattern: Pattern, batches: Iterable[Batch]) -> None:
    """Check that a pattern in place of all heads has targets in these batches; runs as few of them as it needs.

    Raises:
        PatternError: it has none in some layer.
    """
    removal = HeadRemoval(model)
    with removal.attached():
        by = removal.removed = removal.replacements(removal.places, pattern, [], None, None)
        for batch in batches_of(batches, None):
            removal.run(batch)
            if not removal.unreached(by):
                return
        removal.check_reached(by)


class HeadRemoval:
    """Removes heads of a model while it is attached.

    Attributes:
        model: the model.
        n_layers, n_heads: number of layers, and of heads per layer.
        removed: the heads to remove and what is in their place; may change between forward passes.
        on_call: called with the layer's index before its attention is computed.
        n_reached: number of queries with a target, by layer and pattern.
    """

    def __init__(self, model: nn.Module) -> None:
        self._adapter = adapter_of(model, ABLATING)
        self.model, self.n_layers, self.n_heads = self._adapter.model, self._adapter.n_layers, self._adapter.n_heads
        self.removed: dict[Place, Replacement] = {}
        self.on_call: Callable[[int], None] | None = None
        self.current: ForwardPass | None = None
        # While the mean outputs are computed: sums over tokens [H, D] by layer, and numbers of tokens.
        self.sums: dict[int, Tensor] | None = None
        self.counts: dict[int, Tensor] = {}
        self.n_reached: dict[tuple[int, Pattern], Tensor | int] = {}
        self._called: set[int] = set()

    @property
    def places(self) -> list[Place]:
        """All heads, by layer and number."""
        return [(layer, head) for layer in range(self.n_layers) for head in range(self.n_heads)]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Remove heads inside a `with` block; the model is in evaluation mode."""
        self._called, self.n_reached = set(), {}
        self._adapter.attach({layer: _Processor(layer, self) for layer in range(self.n_layers)})
        self._forward = HookedForward(self.model)
        hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end),
        ]
        try:
            with evaluating(self.model):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            self._forward.remove()
            self._adapter.detach()
            self.removed, self.current = {}, None

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Targets in the batch are for patterns: the model's forward has no such argument.
        kept = {name: value for name, value in kwargs.items() if name != GIVEN}
        given = {name: value for name, value in kwargs.items() if name == GIVEN}
        self._adapter.begin_pass()
        self.current = ForwardPass(self._forward.named_inputs(args, kept) | given, self._adapter.patch_size)
        return args, kept

    def _end(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.current = None
        if unseen := sorted({layer for layer, _ in self.removed} - self._called):
            raise AttachError(
                f"{type(self.model).__name__} never called the attention of layers {unseen} where heads can be "
                f"removed; {self._adapter.hint}"
            )

    def called(self, layer: int) -> dict[int, Replacement]:
        """The removed heads of a layer whose attention is about to be computed."""
        self._called.add(layer)
        if self.on_call is not None:
            self.on_call(layer)
        return {head: by for (of_layer, head), by in self.removed.items() if of_layer == layer}

    def checked(self, heads: Iterable[Place]) -> list[Place]:
        """The heads, each once.

        Raises:
            ConfigError: one of them is not a head of the model, or there are none.
        """
        own = f"{type(self.model).__name__} has {self.n_layers} layers of {self.n_heads} heads, numbered from 0"
        if not isinstance(heads, Iterable):
            raise ConfigError(f"heads={heads!r}: give (layer, head) pairs such as (0, 1): {own}")
        places: list[Place] = []
        for given in heads:
            try:
                layer, head = map(index, given)
            except (TypeError, ValueError):  # no pair, or not of integers
                layer, head = -1, -1
            if not (0 <= layer < self.n_layers and 0 <= head < self.n_heads):
                raise ConfigError(f"heads has {given!r}, which is no (layer, head) of this model: {own}")
            places.append((layer, head))
        if not places:
            raise ConfigError(f"heads is empty; give (layer, head) pairs such as (0, 1): {own}")
        return list(dict.fromkeys(places))

    def replacements(
        self,
        places: Iterable[Place],
        to: To,
        batches: list[dict[str, Any]],
        tokenizer: PreTrainedTokenizerBase | None,
        token_classes: TokenClasses | None,
    ) -> dict[Place, Replacement]:
        """What is in place of each of these heads; see `without_heads`. The model must be attached."""
        if isinstance(to, str) and to == "zero":
            return dict.fromkeys(places)
        if isinstance(to, str) and to == "mean":
            means = self.mean_outputs(batches)
            return {(layer, head): means[layer][head] for layer, head in places}
        found: dict[Place, Replacement] = {}
        for place in places:
            if isinstance(to, Mapping) and place not in to:
                raise ConfigError(f"to has no pattern for layer {place[0]}, head {place[1]}")
            found[place] = pattern_in_place(to[place] if isinstance(to, Mapping) else to, tokenizer, token_classes)
        check_class_token({by for by in found.values() if isinstance(by, Pattern)}, self.model)
        return found

    def unreached(self, by: Mapping[Place, Replacement]) -> dict[int, list[str]]:
        """By layer, the patterns in place of heads that no query had a target of since the model was attached."""
        used = dict.fromkeys((layer, pattern) for (layer, _), pattern in by.items() if isinstance(pattern, Pattern))
        found: dict[int, list[str]] = {}
        for layer, pattern in used:
            if not int(self.n_reached.get((layer, pattern), 0)):
                found.setdefault(layer, []).append(pattern.name)
        return found

    def check_reached(self, by: Mapping[Place, Replacement]) -> None:
        """Check that patterns in place of heads changed anything.

        Raises:
            PatternError: no query had a target of one of them in a layer.
        """
        if layers := self.unreached(by):
            names = ", ".join(dict.fromkeys(name for of_layer in layers.values() for name in of_layer))
            raise PatternError(
                f"to={names!r}: no query has a target of it in layers {sorted(layers)}, so heads would stay as they "
                "are; give another pattern, or text that has targets of it"
            )

    @torch.no_grad()
    def mean_outputs(self, batches: list[dict[str, Any]]) -> dict[int, Tensor]:
        """The mean output of each head of a layer over the tokens of the batches, [H, D], in the whole model.

        Raises:
            ConfigError: no batch.
        """
        if not batches:
            raise ConfigError("to='mean' is the mean over the tokens of batches=; give at least one batch")
        self.removed, self.sums, self.counts = {}, {}, {}
        try:
            for batch in batches:
                self.run(batch)
            return {layer: sums_HD / self.counts[layer] for layer, sums_HD in self.sums.items()}
        finally:
            self.sums = None

    def run(self, batch: Mapping[str, Any]) -> None:
        """Run the model on a batch, which is moved to its device."""
        device = next(self.model.parameters()).device
        self.model(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})


class _Processor:
    """An `attention_guidance.adapters.base.AttentionProcessor` of one layer, some of whose heads may be removed."""

    purpose = ABLATING

    def __init__(self, layer: int, removal: HeadRemoval) -> None:
        self.layer, self.removal = layer, removal

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`; never idle, since every call is counted."""
        return False

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """The model's own attention, or, if heads of the layer are removed, that of the others."""
        removed, sums = self.removal.called(self.layer), self.removal.sums
        if not removed and sums is None:
            return unguided()
        assert isinstance(call, AttentionCall), "its adapter takes no model whose maps alone are seen"
        call = call.with_bool_mask().with_all_keys()
        # A copy, as the backward pass of SDPA may need its output.
        out_BQHD = _output(call).transpose(1, 2).clone(memory_format=torch.contiguous_format)
        if sums is not None:
            self._add(sums, out_BQHD, self._pass().sequences(call).valid_BT)
        for head, by in removed.items():
            if isinstance(by, Pattern):
                out_BQHD[:, :, head] = self._of_pattern(call, by, head, out_BQHD[:, :, head])
            else:
                out_BQHD[:, :, head] = 0 if by is None else by.to(out_BQHD.dtype)
        return out_BQHD, None

    def _pass(self) -> ForwardPass:
        if self.removal.current is None:
            name = type(self.removal.model).__name__
            raise AttachError(f"a part of {name} was called alone; its heads are replaced in a call of {name}")
        return self.removal.current

    def _add(self, sums: dict[int, Tensor], out_BQHD: Tensor, valid_BQ: Tensor) -> None:
        counts = self.removal.counts
        sum_HD = (out_BQHD * valid_BQ[..., None, None]).sum((0, 1), dtype=sums_dtype(out_BQHD.device))
        sums[self.layer] = sums.get(self.layer, 0) + sum_HD
        counts[self.layer] = counts.get(self.layer, 0) + valid_BQ.sum()

    def _of_pattern(self, call: AttentionCall, pattern: Pattern, head: int, own_BQD: Tensor) -> Tensor:
        """The output of a head that attends to a pattern's targets evenly, in rows that have any."""
        check_positions(call, self.layer)
        _, (targets,) = self._pass().targets([pattern], call)
        hit_BQK = targets.dense().expand(-1, call.query_BHQD.shape[2], -1)
        if call.mask is not None:
            hit_BQK = hit_BQK & call.mask[:, 0]
        count_BQ1 = hit_BQK.sum(-1, keepdim=True)
        n_reached, at = self.removal.n_reached, (self.layer, pattern)
        n_reached[at] = n_reached.get(at, 0) + (count_BQ1 > 0).sum()
        value_BKD = call.value_BHKD[:, head]
        mean_BQD = hit_BQK.to(value_BKD.dtype) @ value_BKD / count_BQ1.clamp(min=1)
        return torch.where(count_BQ1 > 0, mean_BQD, own_BQD)


def _output(call: AttentionCall) -> Tensor:
    """The output of every head, [B, H, Q, D], without dropout.

    Args:
        call: a call with a bool mask, and with keys and values for every head.
    """
    mask = call.mask
    if call.bias is not None:
        bias = call.bias.to(call.query_BHQD.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -math.inf)
    return functional.scaled_dot_product_attention(
        call.query_BHQD, call.key_BHKD, call.value_BHKD, mask, scale=call.scale
    )


def pattern_in_place(
    given: object, tokenizer: PreTrainedTokenizerBase | None, token_classes: TokenClasses | None = None
) -> Pattern:
    """A pattern that is given as `to`, or its name.

    Raises:
        PatternError: it is no pattern.
    """
    if not isinstance(given, str):
        return checked_pattern(given)
    try:
        return get_pattern(given, tokenizer, token_classes)
    except PatternError as error:
        raise PatternError(f"to={given!r} must be zero, mean or a pattern: {error}") from error
