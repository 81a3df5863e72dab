"""What plain products in place of flash attention save of a training step in bf16 on a CPU, by the length of sequences.

    python -m benchmarks.cost.short_attention           the preset mini, 4,096 tokens a step (minutes on 2 cores)
    python -m benchmarks.cost.short_attention --show    the table of what is kept

A step is forward, backward and AdamW of an unguided model on tokens drawn at random, through torch's flash attention
and through the plain products that training takes up to 128 tokens a sequence, in turns. It says what that choice is
worth where the CPU computes in bf16 itself. Results are appended to results/short_attention.jsonl, a line a length.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForMaskedLM, set_seed

from attention_guidance.commands import results
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.pretraining.settings.architectures import new_config
from attention_guidance.commands.pretraining.settings.config import make_config

from .. import BENCHMARKS
from ..turns import Arm, Training, append, newest, step_time, take_turns

RESULTS = BENCHMARKS / "results" / "short_attention.jsonl"
_LABELLED = 0.15
_KERNELS = {"flash": SDPBackend.FLASH_ATTENTION, "plain": SDPBackend.MATH}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost.short_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=4096, help="in a batch (4,096)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="tokens a sequence")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=120, help="at most so long a length (120)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        for record in measured(arguments):
            append(arguments.results, [record])
    print(show(arguments.results))
    return 0


def measured(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of each length, as soon as they are known."""
    for length in arguments.lengths:
        config = make_config({"preset": arguments.preset, "block_size": length, "dropout": 0.0})
        known = {"vocab_size": arguments.vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        size = (arguments.tokens // length, length)
        ids_BT = torch.randint(5, arguments.vocabulary, size)
        batch = {"input_ids": ids_BT, "labels": ids_BT.masked_fill(torch.rand(size) > _LABELLED, -100)}
        arms: dict[str, Arm] = {}
        for name, kernel in _KERNELS.items():
            set_seed(1)
            model = AutoModelForMaskedLM.from_config(new_config(config, "roberta", known))
            MaskedHead(model)
            arms[name] = Training(model, batch, torch.bfloat16, within=functools.partial(sdpa_kernel, kernel))
            arms[name].step()
        times = take_turns(arms, arguments.rounds, arguments.seconds)
        yield (
            results.header("short_attention")
            | {"command": "python -m benchmarks.cost.short_attention", "rounds": len(times["flash"]), "length": length}
            | {name: getattr(arguments, name) for name in ("preset", "vocabulary", "tokens")}
            | step_time(times["plain"], times["flash"])
        )


def show(path: Path) -> str:
    """The newest figures of each size as Markdown."""
    records = newest(path, "preset", "tokens", "device", "length")
    if not records:
        return "nothing is kept yet"
    head = ("model", "device", "tokens a sequence", "step time, plain products over flash")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for record in records:
        ratio = f"{record['ratio']:.2f} ({record['ratio_low']:.2f} to {record['ratio_high']:.2f})"
        rows.append((record["preset"], record["device"], str(record["length"]), ratio))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
