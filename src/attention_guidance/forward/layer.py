"""The attention processor of a guided layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.adapters.base import GUIDING, Result
from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import AttachError, PatternError
from attention_guidance.forward.passes import Passes
from attention_guidance.forward.split_heads import join_heads, split_heads
from attention_guidance.loss.backends import Backend, BackendChoice, Case, is_transformed
from attention_guidance.loss.call import AttentionCall, Call, take_heads
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns import Pattern, Targets


class LayerProcessor:
    """Answers the calls of one attention layer; see `attention_guidance.adapters.base.AttentionProcessor`.

    Args:
        number: the number of the layer.
        heads: its guided heads.
        objective: the loss of a row, one of `attention_guidance.loss.statistics.OBJECTIVES`.
        backend: computes the guided heads.
        passes: the forward passes of the model, shared by all its layers.
    """

    purpose = GUIDING

    def __init__(
        self, number: int, heads: Iterable[GuidedHead], objective: str, backend: BackendChoice, passes: Passes
    ) -> None:
        self.number = number
        self.objective = objective
        self.backend = backend
        self.passes = passes
        groups: dict[Pattern, list[int]] = defaultdict(list)
        for guided in heads:
            groups[guided.pattern].append(guided.head)
        self.groups = tuple((pattern, tuple(indices)) for pattern, indices in groups.items())
        self.guided = tuple(head for _, indices in self.groups for head in indices)

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads in the order of `LayerLoss.sums`."""
        return tuple(GuidedHead(self.number, head, pattern) for pattern, indices in self.groups for head in indices)

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`. True in evaluation mode, or if part of the model is called alone without gradients.

        Raises:
            AttachError: the call would train unguided.
        """
        return self.passes.has_none(training)

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """Compute a call of the layer's attention, and add its guidance to the pass that it belongs to.

        Raises:
            AttachError: the call would train unguided; the number of keys differs from that of queries; gradients were
                enabled when the pass began and are disabled here, as under reentrant checkpointing, so guidance would
                train nothing; or the requested backend does not support the call.
        """
        of_call = self.passes.of_call(self.number, call)
        if of_call is None:
            return unguided()
        if not call.cross:
            check_positions(call, self.number)
        of_call.check_gradients()
        trains = torch.is_grad_enabled() and of_call.weighted
        call = call.with_bool_mask()
        valid_BT, targets = of_call.targets([pattern for pattern, _ in self.groups], call, self._in_form)
        call = replace(
            call.in_autocast_precision(),
            groups=tuple((of_group, len(heads)) for of_group, (_, heads) in zip(targets, self.groups, strict=True)),
            log_mass=self.objective != "squared_error",
            heads=self.guided,
            shared=None if torch.compiler.is_compiling() else of_call.shared,
        )
        backend = self.backend.of(self._case(call))
        beside = backend.beside or not trains
        if beside:
            # If guidance does not train, the output equals the unguided model's to the last bit.
            result = unguided()
        # Disable autocast: backends choose the precision of each operation themselves.
        with torch.set_grad_enabled(trains), torch.autocast(call.device.type, enabled=False):
            if beside:
                statistics = backend.statistics(call.of_heads(self.guided))
            else:
                assert isinstance(call, AttentionCall), "the reference alone serves a map"
                out_BQHD, statistics = _attend(call, self.guided, backend)
                result = out_BQHD, None
        of_call.add(self.number, call, statistics, valid_BT)
        return result

    def _in_form(self, targets: Targets, pattern: Pattern, n_keys: int) -> Targets:
        """The targets in the form that the objective needs.

        Raises:
            PatternError: the mass on soft targets is asked for.
        """
        if self.objective == "cross_entropy":
            return targets.as_soft(n_keys)
        if self.objective == "log_mass" and targets.soft_BQK is not None:
            raise PatternError(
                f"pattern {pattern.name!r} has soft targets, on which there is no mass: use loss='squared_error' or "
                "loss='cross_entropy' in place of 'log_mass'"
            )
        return targets

    def _case(self, call: Call) -> Case:
        named = zip(self.groups, call.groups, strict=True)
        mapped = tuple(pattern.name for (pattern, _), (targets, _) in named if not targets.is_listed)
        case = Case(
            call.device.type, call.trained[0].dtype, call.n_keys, call.attention, mapped=mapped,
            transformed=is_transformed(),
        )  # fmt: skip
        if isinstance(call, AttentionCall):
            case = replace(case, bias=call.bias is not None, channels=call.query_BHQD.shape[3], cross=call.cross)
        return case


def _attend(call: AttentionCall, guided: tuple[int, ...], backend: Backend) -> tuple[Tensor, RowStatistics]:
    """Output [B, Q, H, D] of all heads, and row statistics of the guided heads from the backend."""
    n_heads = call.query_BHQD.shape[1]
    others = [head for head in range(n_heads) if head not in guided]
    if backend.among or not others:
        out_BHQD, statistics = backend.attend(call if backend.among else call.of_heads(guided))
        if not backend.among:
            out_BHQD = take_heads(out_BHQD, [guided.index(head) for head in range(n_heads)])
        return out_BHQD.transpose(1, 2).contiguous(), statistics
    call = call.with_all_keys()
    query, query_rest = split_heads(call.query_BHQD, guided, others)
    key, key_rest = split_heads(call.key_BHKD, guided, others)
    value, value_rest = split_heads(call.value_BHKD, guided, others)
    alone = replace(call, query_BHQD=query, key_BHKD=key, value_BHKD=value, heads=None)
    out_BHQD, statistics = backend.attend(alone)
    rest_BHQD = functional.scaled_dot_product_attention(
        query_rest, key_rest, value_rest, call.mask, call.dropout, scale=call.scale
    )
    return join_heads(out_BHQD, rest_BHQD, guided, others), statistics


def check_positions(call: Call, layer: int) -> None:
    """Raise AttachError if keys are not at the positions of the queries: no key is then next to a query."""
    n_queries, n_keys = call.size[1], call.n_keys
    if n_queries != n_keys:
        raise AttachError(
            f"the attention of layer {layer} has {n_queries} queries and {n_keys} keys, as under prefix tuning, with "
            "past_key_values or pooled keys; guidance needs self-attention over one sequence: LoRA, adapters and "
            "prompt tuning can be guided"
        )
