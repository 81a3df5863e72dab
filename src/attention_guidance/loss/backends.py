"""The backends by name, what each supports, and which one `auto` picks.

A backend computes the attention of guided heads together with its row statistics. `reference` is the definition, with
dense maps; the others are faster. Requesting a backend that does not support a case is an error: it is never replaced
by another silently.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.loss import batched, blocked, reference, triton
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import RowStatistics
from attention_guidance.patterns import Offset, Sequences

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """The properties of a call that decide which backends support it.

    Attributes:
        device: device type, such as `cpu` or `cuda`.
        dtype: dtype of queries, keys and values, or of the map.
        length: number of keys.
        attention: the model's attention without guidance: `sdpa`, `eager`, or `own` if only its map is seen.
        bias: whether a bias is added to the scores, or the mask differs by head.
        mapped: names of the patterns whose targets are a dense map.
        channels: number of channels of a head.
        cross: whether it is the cross-attention of a decoder.
        transformed: whether torch.func transforms the model, or its derivatives are computed forward.
    """

    device: str
    dtype: torch.dtype
    length: int
    attention: str = "sdpa"
    bias: bool = False
    mapped: tuple[str, ...] = ()
    channels: int = 64
    cross: bool = False
    transformed: bool = False


@dataclass(frozen=True)
class Backend:
    """One way to compute guided attention.

    Attributes:
        name: its name in `guide(backend=...)`.
        attend: computes output and row statistics together, with gradients.
        statistics: computes the row statistics alone, of an `AttentionCall` or, for the reference, a `MapCall`.
        refuses: returns why it does not support a case, or None if it does.
        beside: whether the model's own attention computes all heads, and the backend only the statistics.
        among: whether it computes all heads of a layer, guided or not (`AttentionCall.heads`).
    """

    name: str
    attend: Callable[[AttentionCall], tuple[Tensor, RowStatistics]]
    statistics: Callable[[Any], RowStatistics]
    refuses: Callable[[Case], str | None]
    beside: bool = False
    among: bool = False


def _refuses_all(case: Case) -> str | None:
    """Why only the reference supports a case, or None."""
    if case.attention == "own":
        return "the model computes its attention itself, and only its map is seen"
    if case.attention != "sdpa":
        return f"the model runs {case.attention} attention, whose weights it may return"
    if case.bias:
        return "the model adds a bias to its attention scores"
    if case.transformed:
        return "it defines its own gradient, which torch.func and forward-mode derivatives do not take"
    return None


def is_transformed() -> bool:
    """Whether torch.func transforms what is computed, or derivatives are computed forward."""
    if torch.compiler.is_compiling():  # it has transforms of its own
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _blocked_refuses(case: Case) -> str | None:
    return _refuses_all(case) if case.device in ("cpu", "cuda") else f"it is for cpu and cuda, not {case.device}"


# On CPUs, longer sequences are faster in `blocked`, whose blocks may be a part of a sequence (benchmarks/cost).
_LONGEST_BATCHED = 256


def _batched_refuses(case: Case) -> str | None:
    if case.device != "cpu":
        return f"it is for cpu, not {case.device}"
    if case.length > _LONGEST_BATCHED:
        return f"it is for at most {_LONGEST_BATCHED} tokens (here: {case.length:,})"
    if torch.compiler.is_compiling():
        return "torch.compile cannot take it whole"
    return _refuses_all(case)


def _triton_refuses(case: Case) -> str | None:
    if not triton.installed():
        return "Triton is not installed (pip install triton)"
    if case.device != "cuda" and not triton.interpreted():
        return f"it is for cuda, not {case.device}"
    if case.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"its kernels do not support {str(case.dtype).removeprefix('torch.')}"
    if case.channels > triton.MAX_CHANNELS:
        return f"its kernels take heads of at most {triton.MAX_CHANNELS} channels (the model's have {case.channels})"
    if case.length > triton.MAX_LENGTH:
        return f"its kernels take at most {triton.MAX_LENGTH:,} tokens (here: {case.length:,})"
    if case.cross:
        return "its kernels serve self-attention only"
    if case.mapped:
        return f"the targets of {', '.join(case.mapped)} are a map, not a short list of keys"
    return _refuses_all(case)


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", reference.attend, reference.statistics, lambda case: None, beside=True),
        # Beside the model's own attention, only guided heads are needed.
        Backend("batched", batched.attend, blocked.statistics, _batched_refuses, among=True),
        Backend("blocked", blocked.attend, blocked.statistics, _blocked_refuses),
        Backend("triton", triton.attend, triton.statistics, _triton_refuses, among=True),
    )
}
NAMES = tuple(BACKENDS)
Name = Literal["auto", "reference", "batched", "blocked", "triton"]
"""The name of a backend, or `auto` for the fastest that can serve."""

# What `auto` tries, by device type, best first; `reference` comes last.
_PREFERRED = {"cpu": ("batched", "blocked"), "cuda": ("triton", "blocked")}


def able(case: Case) -> list[str]:
    """The names of the backends that support a case."""
    return [name for name, backend in BACKENDS.items() if backend.refuses(case) is None]


class BackendChoice:
    """The backend that the user requested, or `auto`.

    Args:
        name: one of `NAMES`, or `auto`.

    Raises:
        ConfigError: no such backend.
    """

    def __init__(self, name: str = "auto") -> None:
        if name not in ("auto", *NAMES):
            raise ConfigError(f"unknown backend {name!r}; expected auto or one of {', '.join(NAMES)}")
        self.name = name
        self.last: Case | None = None

    def of(self, case: Case) -> Backend:
        """The backend for a case.

        Raises:
            AttachError: the requested backend does not support it.
        """
        if self.name == "auto":
            chosen = automatic(case)
        else:
            chosen = BACKENDS[self.name]
            reason = chosen.refuses(case)
            if reason is not None:
                raise AttachError(
                    f"backend {self.name!r} cannot guide this attention: {reason}; {', '.join(able(case))} can"
                )
        if not torch.compiler.is_compiling():
            if self.last is None:
                logger.info("guidance runs on backend %r (%s, %s)", chosen.name, case.device, case.dtype)
            self.last = case
        return chosen

    def __str__(self) -> str:
        return self.name if self.last is None or self.name != "auto" else f"auto -> {self.of(self.last).name}"

    def explain(self) -> str:
        """A line for each backend: which one the last pass used, and why the others were not used."""
        if self.last is None:
            return f"backend {self.name!r}: no guided forward pass yet"
        case, chosen = self.last, self.of(self.last)
        lines = [f"{self.name} -> {chosen.name} ({case.device}, {case.dtype}, {case.length} keys)"]
        for name, backend in BACKENDS.items():
            reason = backend.refuses(case)
            if name == chosen.name:
                lines.append(f"  {name}: taken" + (" (asked for)" if self.name == name else ""))
            else:
                lines.append(f"  {name}: " + ("could serve" if reason is None else f"cannot serve: {reason}"))
        return "\n".join(lines)


def automatic(case: Case) -> Backend:
    """The backend that `auto` picks."""
    for name in _PREFERRED.get(case.device, ()):
        if BACKENDS[name].refuses(case) is not None:
            continue
        if case.device == "cpu" or agrees(name, case.device, case.dtype, case.channels):
            return BACKENDS[name]
    return BACKENDS["reference"]


@functools.cache
@torch.compiler.disable  # type: ignore[untyped-decorator]
def agrees(name: str, device: str, dtype: torch.dtype, channels: int = 64) -> bool:
    """Whether a backend agrees with the reference on a device: tested once, on a small case.

    Kernels may run on devices, drivers and compilers on which they were never tested, and `auto` must be correct before
    it is fast. A backend that disagrees or does not run is skipped with a warning.
    """
    try:
        ours, theirs = (_try_out(BACKENDS[which], device, dtype, channels) for which in (name, "reference"))
        difference = max(float((a - b).norm() / (b.norm() + 1e-9)) for a, b in zip(ours, theirs, strict=True))
    except Exception as error:  # whatever a kernel may raise
        logger.warning("guidance backend %r does not run on %s in %s: %s", name, device, dtype, error)
        return False
    # In half precision, the reference has rounding errors too.
    if not difference < (1e-3 if dtype in (torch.float32, torch.float64) else 0.1):
        logger.warning("guidance backend %r is off by %.1g on %s in %s", name, difference, device, dtype)
        return False
    return True


def _try_out(backend: Backend, device: str, dtype: torch.dtype, channels: int) -> list[Tensor]:
    """Output, statistics and gradients of a small attention with several tiles and padding."""
    # Use a separate generator: torch.manual_seed would seed all devices, and so change the user's dropout.
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        query, key, value = (
            torch.randn(2, 2, 200, channels, generator=generator).to(device, dtype).requires_grad_() for _ in range(3)
        )
        valid = torch.ones(2, 200, dtype=torch.bool, device=device)
        valid[0, 150:] = False
        targets = Offset(1).targets(Sequences(valid))
        call = AttentionCall(query, key, value, ((targets, 2),), channels**-0.5, valid[:, None, None])
        out, rows = backend.attend(call)
        of_output = torch.autograd.grad(out.float().square().sum(), (query, key, value), retain_graph=True)
        of_rows = torch.autograd.grad((rows.squares_BHQ + rows.mass_BHQ).square().sum(), (query, key))
    results = out, rows.squares_BHQ, rows.mass_BHQ, *of_output, *of_rows
    return [result.detach().float() for result in results]
