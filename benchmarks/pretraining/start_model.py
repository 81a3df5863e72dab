"""Is a model of another language a better start than none? A new tokenizer for it, beside a model from random weights.

    python -m benchmarks.pretraining.start_model --start runs/english      400 steps on 0.25 MB of Swahili
    python -m benchmarks.pretraining.start_model --start runs/english --steps 1500 --seeds 1 2 3
    python -m benchmarks.pretraining.start_model --show                    the table of what is kept

Both arms are guided and have the same tokenizer, trained on the text, so their losses on the same masked tokens can be
compared, after as many steps. The start has to be of the preset's size. Reads ../shared/data, which is not part of
the project. What it finds is appended to results/start_model.jsonl, a line a run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.config import make_config

from .. import BENCHMARKS, DATA
from ..downstream.recipe_rules import beginning
from ..turns import keep
from .relative_weight import read

RESULTS = BENCHMARKS / "results" / "start_model.jsonl"
_KEPT = ("final_loss", "final_accuracy", "curve", "train_seconds", "new_tokens", "guidance", "warnings", "model")
NOTHING, START = "from random weights", "from the start model"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.start_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--start", type=Path, help="a run, or the folder of a model, of another language")
    parser.add_argument("--called", default="English", help="what the start was trained on, for the table (English)")
    parser.add_argument("--text", default="swahili", help="a folder of the data with train.txt and valid.txt (swahili)")
    parser.add_argument("--megabytes", type=float, default=0.25, help="train on the first so many alone (0.25)")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        if arguments.start is None or not arguments.data.is_dir():
            print("error: give --start, and the folder of the data as --data", file=sys.stderr)
            return 2
        torch.set_num_threads(1)
        if failed := keep(arguments.results, runs(arguments), lambda run: f"{run['arm']}: {run['final_loss']:.3f}"):
            return failed
    print(show(arguments.results))
    return 0


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each run, as soon as it is done."""
    start = {"init_from": str(arguments.start), "new_tokenizer": True, "match_heads": True}
    with tempfile.TemporaryDirectory() as folder:
        text = beginning(arguments.data / arguments.text / "train.txt", round(1e6 * arguments.megabytes), Path(folder))
        for seed in arguments.seeds:
            for arm, more in ((NOTHING, {}), (START, start)):
                flags = {"corpus": [str(text)], "preset": arguments.preset, "seed": seed, "report_to": "none"}
                flags["validation"] = [str(arguments.data / arguments.text / "valid.txt")]
                flags |= {"max_steps": arguments.steps, "save_every": arguments.steps}
                flags |= {"eval_every": max(1, arguments.steps // 10)}
                found = pretrain(make_config(flags | more), Path(folder) / f"{seed}-{len(more)}", quiet=True)
                yield (
                    results.header("start_model")
                    | {"command": "benchmarks/start_model.py", "arm": arm, "seed": seed, "steps": arguments.steps}
                    | {"text": arguments.text, "megabytes": arguments.megabytes, "preset": arguments.preset}
                    | {"start": arguments.called if more else None}
                    | {name: found[name] for name in _KEPT}
                )


def show(path: Path) -> str:
    """The runs that are kept as a Markdown table."""
    losses_at = "validation loss before", "in the middle", "at the end"
    head = ("text", "start", "steps", "seed", *losses_at, "masked tokens right", "new tokens shared, composed, drawn")
    rows = [head, ("---",) * len(head)]
    for record in read(path):
        start = NOTHING if record["start"] is None else f"{record['start']}, {record['preset']}"
        curve, new = record["curve"], record["new_tokens"]
        losses = (f"{curve[place]['loss']:.3f}" for place in (0, len(curve) // 2, -1))
        shares = "" if new is None else ", ".join(f"{new[kind]:.0%}" for kind in ("shared", "composed", "drawn"))
        text = f"{record['text'].capitalize()}, {record['megabytes']:g} MB"
        right = f"{record['final_accuracy']:.1%}"
        rows.append((text, start, f"{record['steps']:,}", str(record["seed"]), *losses, right, shares))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if len(rows) > 2 else "nothing is kept yet"


if __name__ == "__main__":
    sys.exit(main())
