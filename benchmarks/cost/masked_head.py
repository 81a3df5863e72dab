"""What the vocabulary projection at the masked positions alone saves of a training step.

    python -m benchmarks.cost.masked_head           the preset small, T = 512, vocabulary of 32,000 (minutes on 2 cores)
    python -m benchmarks.cost.masked_head --show    the table of what is kept

A step is forward, backward and AdamW of an unguided model on tokens drawn at random, 15 % of them masked, in the
machine's precision: once through the model's own loss over all positions, once with `MaskedHead`, in turns. The losses
of both are compared in float32. Results are appended to results/masked_head.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, set_seed

from attention_guidance.commands import results
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.pretraining.settings.architectures import new_config
from attention_guidance.commands.pretraining.settings.arguments import choose_precision
from attention_guidance.commands.pretraining.settings.config import make_config

from .. import BENCHMARKS
from ..turns import Arm, Training, append, newest, step_time, take_turns

RESULTS = BENCHMARKS / "results" / "masked_head.jsonl"
_LABELLED = 0.15


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost.masked_head",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="small")
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=2, help="in a batch (2)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=300, help="at most so long (300)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        append(arguments.results, [measured(arguments)])
    print(show(arguments.results))
    return 0


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run of this benchmark."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = make_config({"preset": arguments.preset, "block_size": arguments.positions, "dropout": 0.0})
    precision = choose_precision("auto")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    models = []
    for masked in (False, True):
        set_seed(1)
        known = {"vocab_size": arguments.vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        model = AutoModelForMaskedLM.from_config(new_config(config, "roberta", known)).to(device)
        if masked:
            MaskedHead(model)
        models.append(model)
    size = (arguments.sequences, arguments.positions)
    ids_BT = torch.randint(5, arguments.vocabulary, size, device=device)
    batch = {"input_ids": ids_BT, "labels": ids_BT.masked_fill(torch.rand(size, device=device) > _LABELLED, -100)}
    losses = [model(**batch).loss.item() for model in models]
    arms: dict[str, Arm] = {
        name: Training(model, batch, dtype) for name, model in zip(("whole", "masked"), models, strict=True)
    }
    for arm in arms.values():
        arm.step()
    times = take_turns(arms, arguments.rounds, arguments.seconds)
    return (
        results.header("masked_head")
        | {"command": "python -m benchmarks.cost.masked_head", "precision": precision, "rounds": len(times["whole"])}
        | {name: getattr(arguments, name) for name in ("preset", "vocabulary", "positions", "sequences")}
        | {"losses": dict(zip(("whole", "masked"), losses, strict=True))}
        | step_time(times["masked"], times["whole"])
    )


def show(path: Path) -> str:
    """The newest figures of each size as Markdown."""
    records = newest(path, "preset", "vocabulary", "positions", "device")
    if not records:
        return "nothing is kept yet"
    head = ("model", "vocabulary", "T", "device", "step time, masked positions over all", "losses differ by")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for record in records:
        ratio = f"{record['ratio']:.2f} ({record['ratio_low']:.2f} to {record['ratio_high']:.2f})"
        apart = abs(record["losses"]["whole"] - record["losses"]["masked"])
        where = f"{record['device']}, {record['precision']}"
        size = (record["preset"], f"{record['vocabulary']:,}", f"{record['positions']:,}")
        rows.append((*size, where, ratio, f"{apart:.1e}"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
