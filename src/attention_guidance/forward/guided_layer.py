"""What sits on the attention of one guided layer: computes it, and keeps how far its heads are from their patterns.

Shape suffixes: B batch, H heads (G those of keys, where they are shared), Q queries, K keys, T positions, D channels of
a head.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attention_guidance.adapters.call import GUIDING, AttentionCall, Result, in_backward
from attention_guidance.assignment import GuidedHead
from attention_guidance.errors import AttachError
from attention_guidance.forward.passes import Passes
from attention_guidance.forward.split_heads import join_heads, split_heads, take_heads
from attention_guidance.loss.backends import Backend, BackendChoice, Case
from attention_guidance.loss.layers import LayerRows
from attention_guidance.loss.statistics import GuidedAttention, RowStatistics
from attention_guidance.patterns import Pattern


class GuidedLayer:
    """Answers the calls of one attention layer.

    Args:
        layer: the layer's number.
        heads: its guided heads.
        objective: `squared_error` or `log_mass`.
        normalization: `query` or `elementwise`.
        backend: what computes the guided heads.
        passes: the forward passes of the model, which all its layers share.
    """

    purpose = GUIDING

    def __init__(
        self,
        layer: int,
        heads: Iterable[GuidedHead],
        objective: str,
        normalization: str,
        backend: BackendChoice,
        passes: Passes,
    ) -> None:
        self.layer = layer
        self.passes = passes
        self.objective = objective
        self.normalization = normalization
        self.backend = backend
        groups: dict[Pattern, list[int]] = defaultdict(list)
        for guided in heads:
            groups[guided.pattern].append(guided.head)
        self.groups = tuple((pattern, tuple(indices)) for pattern, indices in groups.items())
        self.guided = [head for _, indices in self.groups for head in indices]

    @property
    def heads(self) -> tuple[GuidedHead, ...]:
        """The guided heads in the order of `LayerLoss.sums`."""
        return tuple(GuidedHead(self.layer, head, pattern) for pattern, indices in self.groups for head in indices)

    def is_idle(self, training: bool) -> bool:
        """See `Guide`: the model evaluates, or a part of it was called on its own without training.

        Raises:
            AttachError: the call would train unguided.
        """
        if self.passes.current is not None or in_backward():
            return False
        self.passes.check_outside(training)
        return True

    def attend(self, call: AttentionCall, unguided: Callable[[], Result]) -> Result:
        """Answer a call of the layer's attention, and add its guidance to the current pass.

        Raises:
            AttachError: the call would train unguided; it has other keys than its queries; gradients were on when the
                pass began and are off here, as under reentrant checkpointing, where the guidance would train nothing;
                or the backend asked for cannot serve.
        """
        current = self.passes.of_call(self.layer, call)
        if current is None:
            return unguided()
        recording = self.passes.current is not None
        _check_positions(call, self.layer)
        if current.with_gradient and not torch.is_grad_enabled() and recording:
            raise AttachError(
                "gradients are off inside the model's forward pass, so guidance would train nothing; if this is "
                "gradient checkpointing, use gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        with_gradient = torch.is_grad_enabled() and current.weighted
        mask, bias = call.mask_and_bias()
        size = call.query_BHQD.shape[0], call.query_BHQD.shape[2]
        patterns = [pattern for pattern, _ in self.groups]
        valid_BT, targets = current.targets(patterns, size, mask, call.query_BHQD.device)
        query, key, value = _as_computed(call)
        # Of all heads until the backend is known: those that are guided are taken out in the way it wants.
        guided = GuidedAttention(
            query,
            key,
            value,
            tuple((of_pattern, len(heads)) for of_pattern, (_, heads) in zip(targets, self.groups, strict=True)),
            call.scale,
            mask,
            bias,
            call.dropout,
            self.objective == "log_mass",
            shared=None if torch.compiler.is_compiling() else current.shared,
        )
        backend = self._backend(call, guided)
        if backend.beside or not with_gradient:
            # The model's own numbers to the last bit, where guidance does not train.
            result = unguided()
            with torch.set_grad_enabled(with_gradient), _as_it_is(guided):
                statistics = backend.statistics(self._guided_heads(guided))
        elif backend.among:
            with _as_it_is(guided):
                among = dataclasses.replace(guided, heads=tuple(self.guided))
                out_BHQD, statistics = backend.attend(among)
            result = out_BHQD.transpose(1, 2).contiguous(), None
        else:
            result, statistics = self._attend_apart(guided, backend)
        if recording:
            groups = tuple(heads for _, heads in guided.slices())
            current.add(self.layer, LayerRows(statistics, valid_BT, mask, groups), call)
        return result

    def _backend(self, call: AttentionCall, all_heads: GuidedAttention) -> Backend:
        mapped = tuple(
            pattern.name
            for (pattern, _), (targets, _) in zip(self.groups, all_heads.groups, strict=True)
            if targets.map_BQK is not None
        )
        query = all_heads.query_BHQD
        case = Case(
            query.device.type, query.dtype, all_heads.key_BHKD.shape[2], call.attention,
            all_heads.bias is not None, mapped, query.shape[3],
        )  # fmt: skip
        return self.backend.of(case)

    def _guided_heads(self, all_heads: GuidedAttention) -> GuidedAttention:
        """The guided heads taken out of a call."""
        shared = all_heads.query_BHQD.shape[1] // all_heads.key_BHKD.shape[1]
        key_heads = [head // shared for head in self.guided]
        bias = all_heads.bias
        return dataclasses.replace(
            all_heads,
            query_BHQD=take_heads(all_heads.query_BHQD, self.guided),
            key_BHKD=take_heads(all_heads.key_BHKD, key_heads),
            value_BHKD=take_heads(all_heads.value_BHKD, key_heads),
            bias=bias if bias is None or bias.shape[1] == 1 else take_heads(bias, self.guided),
        )

    def _attend_apart(self, all_heads: GuidedAttention, backend: Backend) -> tuple[Result, RowStatistics]:
        """The guided heads by the backend, the others as torch computes them."""
        n_heads = all_heads.query_BHQD.shape[1]
        others = [head for head in range(n_heads) if head not in self.guided]
        if not others:
            with _as_it_is(all_heads):
                out_BHQD, statistics = backend.attend(self._guided_heads(all_heads))
            in_order = [self.guided.index(head) for head in range(n_heads)]
            return (take_heads(out_BHQD, in_order).transpose(1, 2).contiguous(), None), statistics
        query, key, value = all_heads.query_BHQD, all_heads.key_BHKD, all_heads.value_BHKD
        shared = n_heads // key.shape[1]
        if shared > 1:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        query, query_rest = split_heads(query, self.guided, others)
        key, key_rest = split_heads(key, self.guided, others)
        value, value_rest = split_heads(value, self.guided, others)
        guided = dataclasses.replace(all_heads, query_BHQD=query, key_BHKD=key, value_BHKD=value)
        with _as_it_is(guided):
            out_BHQD, statistics = backend.attend(guided)
        rest_BHQD = functional.scaled_dot_product_attention(
            query_rest, key_rest, value_rest, all_heads.mask, all_heads.dropout, scale=all_heads.scale
        )
        return (join_heads(out_BHQD, rest_BHQD, self.guided, others), None), statistics


def _check_positions(call: AttentionCall, layer: int) -> None:
    """Raise AttachError where keys are not the queries: which key is next to which query, nobody says."""
    n_queries, n_keys = call.query_BHQD.shape[2], call.key_BGKD.shape[2]
    if n_queries != n_keys:
        raise AttachError(
            f"the attention of layer {layer} has {n_queries} queries and {n_keys} keys, as under prefix tuning, with "
            "past_key_values or pooled keys; guidance is for a sequence that attends to itself: LoRA, adapters and "
            "prompt tuning can be guided"
        )


def _as_computed(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in the precision that autocast would have attention in."""
    tensors = call.query_BHQD, call.key_BGKD, call.value_BGKD
    device = call.query_BHQD.device.type
    if not torch.is_autocast_enabled(device) or call.query_BHQD.dtype == torch.float64:
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tensors[0].to(dtype), tensors[1].to(dtype), tensors[2].to(dtype)


def _as_it_is(guided: GuidedAttention) -> AbstractContextManager[Any]:
    """Without autocast: what is to be computed in which precision is the backend's to know."""
    return torch.autocast(guided.query_BHQD.device.type, enabled=False)
