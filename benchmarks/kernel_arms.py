"""What `kernel.py` lets take turns: ways to compute the attention of one layer, half of its heads guided or none.

Shape suffixes: B batch, H heads, T positions, D channels of a head.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attention_guidance.loss import flash, reference, triton
from attention_guidance.loss.statistics import GuidedAttention, RowStatistics, row_losses
from attention_guidance.patterns import First, Offset, Sequences, Targets
from attention_guidance.split_heads import join_heads, split_heads

WEIGHT = 0.1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PASSES = ("forward", "backward", "both")
BASELINE, UNGUIDED, GUIDED = "sdpa-flash", "triton-unguided", "triton-guided"
_PATTERNS = (Offset(1), Offset(-1), First())


@dataclass(frozen=True)
class Setting:
    """The size of a layer's attention, and on what it runs.

    Attributes:
        batch: sequences.
        heads: half of them are guided, in equal parts toward next, previous and first.
        length: tokens of a sequence.
        channels: of a head.
        dtype: a key of `DTYPES`.
        device: `cuda`, or `cpu` for Triton's interpreter.
        repeats: how often a step computes, so that a GPU is not waited for in between.
    """

    batch: int
    heads: int
    length: int
    channels: int
    dtype: str
    device: str
    repeats: int = 10

    @property
    def groups(self) -> tuple[tuple[Targets, int], ...]:
        """The targets of each pattern and the number of its heads."""
        sequences = Sequences(torch.ones(1, self.length, dtype=torch.bool, device=self.device))
        return tuple((pattern.targets(sequences), max(1, self.heads // 6)) for pattern in _PATTERNS)

    @property
    def products(self) -> float:
        """Floating-point operations of the two matrix products of a forward pass; backward has 2.5 times as many."""
        return 4.0 * self.batch * self.heads * self.length**2 * self.channels


class Tensors:
    """Queries, keys, values and the gradient of the output, laid out as a model's projections lay them out."""

    def __init__(self, setting: Setting) -> None:
        chance = torch.Generator().manual_seed(1)
        size = setting.batch, setting.length, setting.heads, setting.channels
        dtype = DTYPES[setting.dtype]

        def draw() -> Tensor:
            # Drawn whole on the CPU, for every device the same; large ones are repeated.
            small = torch.randn((min(size[0], 2), min(size[1], 1024), *size[2:]), generator=chance)
            whole = small.repeat(-(-size[0] // small.shape[0]), -(-size[1] // small.shape[1]), 1, 1)
            return whole[: size[0], : size[1]].to(setting.device, dtype).transpose(1, 2)

        self.inputs = [draw().requires_grad_() for _ in range(3)]
        self.grad_out = draw()


Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def attention(name: str, setting: Setting) -> Attend:
    """The way of that name: from query, key and value to the output, and where heads are guided to their loss."""
    scale = setting.channels**-0.5
    if name == BASELINE:
        return _sdpa_flash
    if name == "flex":
        return _flex
    groups = setting.groups if name != UNGUIDED else ()
    heads = tuple(range(sum(n_heads for _, n_heads in groups)))
    # The layers of a model share what is prepared of targets; so do the calls here.
    shared: dict[Any, Any] = {}

    def fused(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        call = GuidedAttention(query, key, value, groups, scale, heads=heads, shared=shared)
        out, rows = triton.attend(call)
        return (out, guidance(rows)) if groups else (out,)

    def beside(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        chosen, others = list(heads), list(range(len(heads), setting.heads))
        pairs = [split_heads(tensor, chosen, others) for tensor in (query, key, value)]
        call = GuidedAttention(pairs[0][0], pairs[1][0], pairs[2][0], groups, scale)
        out, rows = flash.attend(call)
        rest = scaled_dot_product_attention(pairs[0][1], pairs[1][1], pairs[2][1], scale=scale)
        return join_heads(out, rest, chosen, others).transpose(1, 2), guidance(rows)

    return {UNGUIDED: fused, GUIDED: fused, "flash-guided": beside}[name]


ARMS = (BASELINE, "flex", UNGUIDED, GUIDED, "flash-guided")


def guidance(rows: RowStatistics) -> Tensor:
    """The weighted loss of the guided heads, as training has it when no token is padding."""
    return WEIGHT * row_losses(rows, "squared_error").mean((0, 2)).sum()


def _sdpa_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return (scaled_dot_product_attention(query, key, value),)


def _flex(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    return (_compiled_flex()(query, key, value),)


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


class Arm:
    """One pass of one way, over and over.

    Args:
        name: one of `ARMS`.
        part: one of `PASSES`.
        setting: the size.
        tensors: of that size.
    """

    def __init__(self, name: str, part: str, setting: Setting, tensors: Tensors) -> None:
        self._attend = attention(name, setting)
        self._part, self._setting, self._tensors = part, setting, tensors

    def step(self) -> float:
        """Seconds of one pass."""
        outputs = self._forward() if self._part == "backward" else ()
        begin = self._now()
        for _ in range(self._setting.repeats):
            if self._part != "backward":
                outputs = self._forward()
            if self._part != "forward":
                self._backward(outputs)
        return (self._now() - begin) / self._setting.repeats

    def _forward(self) -> tuple[Tensor, ...]:
        return self._attend(*self._tensors.inputs)

    def _backward(self, outputs: Sequence[Tensor]) -> None:
        gradients_of(outputs, self._tensors)

    def _now(self) -> float:
        if self._setting.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def gradients_of(outputs: Sequence[Tensor], tensors: Tensors) -> tuple[Tensor, ...]:
    """With respect to query, key and value; the graph stays for another time."""
    given = [tensors.grad_out, *(torch.ones_like(output) for output in outputs[1:])]
    return torch.autograd.grad(outputs, tensors.inputs, given, retain_graph=True)


def error(name: str, setting: Setting) -> float:
    """How far a way is from the truth at a small size: the largest relative error of output, loss and gradients."""
    small = Setting(2, setting.heads, min(setting.length, 200), setting.channels, setting.dtype, setting.device)
    tensors = Tensors(small)
    outputs = attention(name, small)(*tensors.inputs)
    found = [*outputs, *gradients_of(outputs, tensors)]
    exact = Tensors(small)
    exact.inputs = [tensor.detach().cpu().double().requires_grad_() for tensor in tensors.inputs]
    exact.grad_out = tensors.grad_out.cpu().double()
    expected_outputs = _truth(small, exact, guided=len(outputs) > 1)
    expected = [*expected_outputs, *gradients_of(expected_outputs, exact)]
    errors = [
        float((ours.detach().cpu().double() - theirs.detach()).norm() / theirs.detach().norm())
        for ours, theirs in zip(found, expected, strict=True)
    ]
    # `max` passes over a NaN that does not come first.
    return float("nan") if any(math.isnan(one) for one in errors) else max(errors)


def _truth(setting: Setting, tensors: Tensors, guided: bool) -> tuple[Tensor, ...]:
    """Output and loss by definition, in float64 on the CPU."""
    on_cpu = Setting(setting.batch, setting.heads, setting.length, setting.channels, setting.dtype, "cpu")
    query, key, value = tensors.inputs
    groups = on_cpu.groups
    n_guided = sum(n_heads for _, n_heads in groups)
    whole = GuidedAttention(query, key, value, ((groups[0][0], setting.heads),), setting.channels**-0.5)
    out, _ = reference.attend(whole)
    if not guided:
        return (out,)
    first = [tensor[:, :n_guided] for tensor in tensors.inputs]
    _, rows = reference.attend(GuidedAttention(first[0], first[1], first[2], groups, whole.scale))
    return out, guidance(rows)
