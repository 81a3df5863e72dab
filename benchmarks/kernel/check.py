"""Whether what `speed.py` times is right: every way against the definition in float64, at a small size."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attention_guidance.loss import reference
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import RowStatistics, row_losses

from .arms import GUIDED, Attend, Setting, Tensors, way

# The norm of a difference over that of the truth: more is no rounding.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 3e-2}
# A length that fills its last tile and one that does not: what is divisible by 16 is compiled anew.
_LENGTHS = {"cuda": (200, 256), "cpu": (40,)}
_BATCH = 2


def errors(name: str, setting: Setting) -> dict[str, float]:
    """How far a way is off, in heads of the size and dtype of a setting: the worst of each result."""
    of_lengths = [_errors_at(name, setting.heads, setting.channels, setting.dtype, setting.device, length)
                  for length in _LENGTHS[setting.device]]  # fmt: skip
    return {what: _worst([found[what] for found in of_lengths]) for what in of_lengths[0]}


def fault(found: dict[str, float], dtype: str) -> str | None:
    """What is wrong of what `errors` found, or None."""
    most = TOLERANCE[dtype]
    # No number is never within a tolerance.
    wrong = [f"{what} off by {error:.1e}" for what, error in found.items() if not error <= most]
    return f"wrong: {', '.join(wrong)}, at most {most:.0e} is rounding" if wrong else None


@functools.cache
def _errors_at(name: str, heads: int, channels: int, dtype: str, device: str, length: int) -> dict[str, float]:
    setting = Setting(_BATCH, heads, length, channels, dtype, device)
    tensors = Tensors(setting)
    found = _results(way(name, setting), tensors)
    expected = _results(_truth(setting, guided=name == GUIDED), tensors.exact())
    return {what: _error(found[what], exact) for what, exact in expected.items()}


def _results(attend: Attend, tensors: Tensors) -> dict[str, Tensor]:
    """Output, row statistics, and the gradients of each.

    Those of the rows stand alone: beside the output's, what guidance adds is too small to be missed.
    """
    out, statistics = attend(*tensors.inputs)
    results, names = {"output": out}, ("query", "key", "value")
    sources: dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {"output": ((out,), (tensors.grad_out,))}
    if statistics is not None:
        rows = row_losses(statistics, "squared_error")
        results |= {"squares": statistics.squares_BHQ, "mass": statistics.mass_BHQ, "targets": statistics.n_targets_BHQ}
        # Times the length the rows pull about as hard as the output.
        pulls = (tensors.pulls * rows.shape[-1]).to(rows.dtype)
        sources |= {"rows": ((rows,), (pulls,)), "both": ((out, rows), (tensors.grad_out, pulls))}
    for source, (outputs, given) in sources.items():
        # Rows have no gradient with respect to values; some backends give None and some zeros.
        inputs = tensors.inputs[:2] if source == "rows" else tensors.inputs
        gradients = torch.autograd.grad(outputs, inputs, given, retain_graph=True)
        results |= {f"gradient of {name} from {source}": one for name, one in zip(names, gradients, strict=False)}
    return {what: result.detach() for what, result in results.items()}


def _truth(setting: Setting, guided: bool) -> Attend:
    """By definition, for tensors in float64 on the CPU."""
    on_cpu = dataclasses.replace(setting, device="cpu")
    n_guided = setting.n_guided

    def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, RowStatistics | None]:
        if not guided:
            return scaled_dot_product_attention(query, key, value), None
        (q, q_rest), (k, k_rest), (v, v_rest) = (
            (tensor[:, :n_guided], tensor[:, n_guided:]) for tensor in (query, key, value)
        )
        out, statistics = reference.attend(AttentionCall(q, k, v, on_cpu.groups, setting.channels**-0.5))
        return torch.cat((out, scaled_dot_product_attention(q_rest, k_rest, v_rest)), 1), statistics

    return attend


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.cpu().double() - exact).norm() / exact.norm())


def _worst(several: list[float]) -> float:
    # `max` passes over a NaN that does not come first.
    return math.nan if any(map(math.isnan, several)) else max(several)
