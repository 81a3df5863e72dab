"""What `speed.py` lets take turns: ways to compute the attention of one layer, half of its heads guided or none.

Shape suffixes: B batch, H heads, T positions, D channels of a head.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attention_guidance.loss import triton
from attention_guidance.loss.aggregate import mean, query_sums
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import RowStatistics, row_losses
from attention_guidance.patterns import First, Offset, Sequences, Targets

SEED = 1
WEIGHT = 0.1
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# Each pass with its share of the forward pass's products.
PASSES = {"forward": 1.0, "backward": 2.5, "both": 3.5}
BASELINE, FLEX, UNGUIDED, GUIDED = "sdpa-flash", "flex", "triton-unguided", "triton-guided"
ARMS = (BASELINE, FLEX, UNGUIDED, GUIDED)
Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, RowStatistics | None]]
_PATTERNS = (Offset(1), Offset(-1), First())
# Cycles of a GPU: some half a millisecond, and some twenty.
_SLEEP, _LONGEST_SLEEP = 2**20, 2**25


@dataclass(frozen=True)
class Setting:
    """The size of a layer's attention, and on what it runs.

    Attributes:
        batch: sequences.
        heads: half of them are guided, in equal parts.
        length: tokens of a sequence.
        channels: of a head.
        dtype: a key of `DTYPES`.
        device: `cuda`, or `cpu` for Triton's interpreter.
    """

    batch: int
    heads: int
    length: int
    channels: int
    dtype: str
    device: str

    @property
    def guided(self) -> str:
        """The assignment of heads, as that of `cost/step.py`."""
        return f"next:{self._part} previous:{self._part} first:{self._part}"

    @property
    def n_guided(self) -> int:
        """The number of guided heads, which come first."""
        return len(_PATTERNS) * self._part

    @property
    def groups(self) -> tuple[tuple[Targets, int], ...]:
        """The targets of each pattern and the number of its heads, as a guided model makes them without padding."""
        sequences = Sequences(torch.ones(self.batch, self.length, dtype=torch.bool, device=self.device))
        return tuple((pattern.targets(sequences), self._part) for pattern in _PATTERNS)

    @property
    def flop(self) -> float:
        """Floating-point operations of the two matrix products of a forward pass."""
        return 4.0 * self.batch * self.heads * self.length**2 * self.channels

    @property
    def _part(self) -> int:
        return max(1, self.heads // 6)


class Tensors:
    """Queries, keys, values and the gradient of the output, laid out as a model's projections lay them out."""

    def __init__(self, setting: Setting) -> None:
        chance = torch.Generator().manual_seed(SEED)
        size = setting.batch, setting.length, setting.heads, setting.channels

        def draw() -> Tensor:
            # On the CPU, so that every device has the same.
            drawn_BTHD = torch.randn(size, generator=chance).to(DTYPES[setting.dtype])
            return drawn_BTHD.to(setting.device).transpose(1, 2)

        self.inputs = tuple(draw().requires_grad_() for _ in range(3))
        self.grad_out = draw()
        # Of the rows' losses, where these are looked at one by one.
        self.pulls = torch.randn(setting.batch, setting.n_guided, setting.length, generator=chance).to(setting.device)

    def exact(self) -> Tensors:
        """The same numbers in float64 on the CPU."""
        moved = object.__new__(Tensors)
        moved.inputs = tuple(tensor.detach().cpu().double().requires_grad_() for tensor in self.inputs)
        moved.grad_out, moved.pulls = self.grad_out.cpu().double(), self.pulls.cpu().double()
        return moved


def way(name: str, setting: Setting) -> Attend:
    """The way of that name: from query, key and value to the output, and the row statistics of the guided heads.

    What the layers of a model share is made once for all calls.
    """
    if name in (UNGUIDED, GUIDED):
        return _fused(setting, setting.groups if name == GUIDED else ())
    return {BASELINE: _sdpa_flash, FLEX: _flex}[name]


def _sdpa_flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(query, key, value), None


def _flex(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
    return _compiled_flex()(query, key, value), None


@functools.cache
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # Whole or not at all: past its limit of sizes the compiler would go over to dense maps in silence.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _fused(setting: Setting, groups: tuple[tuple[Targets, int], ...]) -> Attend:
    heads = tuple(range(sum(n_heads for _, n_heads in groups)))
    shared: dict[Any, Any] = {}

    def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, RowStatistics | None]:
        call = AttentionCall(query, key, value, groups, setting.channels**-0.5, heads=heads, shared=shared)
        out, statistics = triton.attend(call)
        return out, statistics if groups else None

    return attend


class Clock:
    """Times work on a device; on a GPU by its own events.

    Attributes:
        host: seconds that Python took to hand each work over.
        late: whether the GPU had to wait for Python in the midst of it, which is in its time then.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu, self._cycles = device == "cuda", _SLEEP
        self.host: list[float] = []
        self.late: list[bool] = []

    def __call__(self, work: Callable[[], object]) -> float:
        """Do some work; the seconds that it took."""
        if not self._on_gpu:
            self.late.append(True)
            return self._hand_over(work)
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        # The GPU is kept waiting until all is in its queue: else small work would be timed by how fast Python is.
        torch.cuda._sleep(self._cycles)  # type: ignore[no-untyped-call]
        start.record()
        self._hand_over(work)
        end.record()
        self.late.append(start.query())
        if self.late[-1]:
            self._cycles = min(2 * self._cycles, _LONGEST_SLEEP)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000

    def _hand_over(self, work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        self.host.append(time.perf_counter() - begin)
        return self.host[-1]


class Arm:
    """One pass of one way.

    Args:
        attend: the way.
        part: one of `PASSES`.
        setting: the size.
        tensors: of that size.
    """

    def __init__(self, attend: Attend, part: str, setting: Setting, tensors: Tensors) -> None:
        self._attend, self._part, self._tensors = attend, part, tensors
        self.clock = Clock(setting.device)

    def step(self) -> float:
        """Seconds of one pass."""
        if self._part == "forward":
            return self.clock(self._forward)
        if self._part == "both":
            return self.clock(lambda: self._backward(self._forward()))
        outputs = self._forward()
        return self.clock(lambda: self._backward(outputs))

    def _forward(self) -> tuple[Tensor, ...]:
        out, statistics = self._attend(*self._tensors.inputs)
        return (out,) if statistics is None else (out, guidance(statistics))

    def _backward(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        given = [self._tensors.grad_out, *(torch.ones_like(loss) for loss in outputs[1:])]
        return torch.autograd.grad(outputs, self._tensors.inputs, given)


def guidance(statistics: RowStatistics) -> Tensor:
    """The weighted loss of the guided heads, as a guided layer makes it."""
    rows_BHQ = row_losses(statistics, "squared_error")
    return WEIGHT * mean(*query_sums(rows_BHQ, statistics.n_targets_BHQ > 0)).sum()
