"""Where the cost of guidance goes: the attention of one layer, its parts timed one by one, and the operators within.

    python -m benchmarks.cost.profile --length 512        a minute; results/cost_profile.jsonl keeps what it finds

One layer of 12 heads of 64, 2,048 tokens, float32, half of the heads guided by the backend `blocked`; all parts take
turns. `benchmarks/cost/README.md` says what the figures mean.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from attention_guidance.commands.results import header
from attention_guidance.forward.split_heads import join_heads, split_heads
from attention_guidance.loss import blocked
from attention_guidance.loss.aggregate import mean, query_sums
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import row_losses
from attention_guidance.patterns import Sequences, get_pattern

from .. import BENCHMARKS

RESULTS = BENCHMARKS / "results" / "cost_profile.jsonl"
HEADS, CHANNELS, TOKENS = 12, 64, 2048
GUIDED, OTHERS = list(range(6)), list(range(6, 12))


class Layer:
    """Queries, keys and values of a layer, as projections make them, and the gradient of its output."""

    def __init__(self, length: int) -> None:
        torch.manual_seed(0)
        size = (TOKENS // length, length, HEADS, CHANNELS)
        self.inputs = [torch.randn(size).transpose(1, 2).requires_grad_() for _ in range(3)]
        self.grad_BTHD = torch.randn(size)
        sequences = Sequences(torch.ones(size[:2], dtype=torch.bool))
        self.groups = tuple((get_pattern(name).targets(sequences), 2) for name in ("next", "previous", "first"))

    def plain(self, heads: slice) -> tuple[float, float]:
        """SDPA of some heads: seconds of forward and backward pass."""
        inputs = [tensor.detach()[:, heads].requires_grad_() for tensor in self.inputs]
        gradient = self.grad_BTHD[:, :, heads].transpose(1, 2)
        query, key, value = inputs
        return _timed(lambda: (scaled_dot_product_attention(query, key, value),), inputs, gradient)

    def guided_half(self) -> tuple[float, float]:
        """The guided heads alone."""
        inputs = [tensor.detach()[:, GUIDED[0] : len(GUIDED)].requires_grad_() for tensor in self.inputs]
        return _timed(lambda: self._attend(inputs), inputs, self.grad_BTHD[:, :, : len(GUIDED)].transpose(1, 2))

    def guided_layer(self) -> tuple[float, float]:
        """The whole layer: heads split, guided, joined."""

        def forward() -> tuple[Tensor, ...]:
            halves = [split_heads(tensor, GUIDED, OTHERS) for tensor in self.inputs]
            guided, loss = self._attend([half[0] for half in halves])
            query, key, value = (half[1] for half in halves)
            rest = scaled_dot_product_attention(query, key, value)
            return join_heads(guided, rest, GUIDED, OTHERS), loss

        return _timed(forward, self.inputs, self.grad_BTHD)

    def _attend(self, inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
        query, key, value = inputs
        out_BHTD, statistics = blocked.attend(AttentionCall(query, key, value, self.groups, CHANNELS**-0.5))
        rows_BHT = row_losses(statistics, "squared_error")
        sums_H, counts_H = query_sums(rows_BHT, statistics.n_targets_BHQ > 0)
        return out_BHTD, 0.1 * mean(sums_H, counts_H).sum()


def _timed(forward: Callable[[], tuple[Tensor, ...]], inputs: list[Tensor], gradient: Tensor) -> tuple[float, float]:
    begin = time.perf_counter()
    out, *loss = forward()
    between = time.perf_counter()
    torch.autograd.grad([out, *loss], inputs, [gradient, *map(torch.ones_like, loss)])
    return between - begin, time.perf_counter() - between


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for length in arguments.length:
        kept = measure(length, arguments.rounds)
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        with arguments.results.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(kept)}\n")
        print(f"T = {length}, {TOKENS} tokens, {kept['device']}: milliseconds (median of {arguments.rounds})")
        for name, (forward, backward) in kept["parts_ms"].items():
            print(f"  {name:32} forward {forward:7.2f}  backward {backward:7.2f}")
        print("  operators of the guided half, forward and backward:")
        for name, spent in kept["operators_ms"].items():
            print(f"    {name:40} {spent:7.2f}")


def measure(length: int, rounds: int) -> dict[str, Any]:
    """Median times of the parts, and of the operators that the guided half spends most on."""
    layer = Layer(length)
    parts: dict[str, Callable[[], tuple[float, float]]] = {
        "unguided layer (SDPA)": lambda: layer.plain(slice(None)),
        "half of its heads (SDPA)": lambda: layer.plain(slice(len(GUIDED), None)),
        "the guided half (blocked)": layer.guided_half,
        "guided layer": layer.guided_layer,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for done in range(rounds + 3):
        for name, part in parts.items():
            seconds = part()
            if done >= 3:
                times[name].append(seconds)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(10):
            layer.guided_half()
    spent = {event.key: event.self_cpu_time_total / 10_000 for event in profiled.key_averages()}
    most = dict(sorted(spent.items(), key=lambda item: -item[1])[:12])
    return {key: value for key, value in header("cost profile").items() if key != "command"} | {
        "length": length,
        "tokens": TOKENS,
        "rounds": rounds,
        "parts_ms": {
            name: [1000 * median(both[way] for both in seconds) for way in (0, 1)] for name, seconds in times.items()
        },
        "operators_ms": most,
    }


if __name__ == "__main__":
    main()
