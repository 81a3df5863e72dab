"""Does guidance teach grammar? BLiMP's minimal pairs, scored by English encoders pre-trained with and without it.

    python -m benchmarks.downstream.minimal_pairs --steps 6000    the recipe's settings for the text (hours on 2 cores)
    python -m benchmarks.downstream.minimal_pairs --steps 16000 --seeds 1 2 --jobs 4    on a GPU with as many cores
    python -m benchmarks.downstream.minimal_pairs --show          the table of what is kept

The encoders are those of low_resource.py, and are taken from its --runs if they are there. Reads ../shared/data, which
is not part of the project. Each result is appended to results/minimal_pairs.jsonl.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from attention_guidance.errors import GuidanceError

from .. import BENCHMARKS, DATA
from ..turns import append, newest
from .low_resource import Prepared, json_of, prepare, pretrained, silent
from .low_resource_tables import ARMS

RESULTS = BENCHMARKS / "results" / "minimal_pairs.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.downstream.minimal_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="of pre-training (1)")
    parser.add_argument("--steps", type=int, help="of pre-training (the recipe's choice)")
    parser.add_argument("--jobs", type=int, default=1, help="encoders at a time, each in a process (1)")
    parser.add_argument(
        "--runs", type=Path, default=BENCHMARKS.parent / "runs" / "low_resource", help="where runs are kept"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        arguments.changes = []
        try:
            if not (arguments.data / "blimp").is_dir():
                raise GuidanceError(f"{arguments.data / 'blimp'}: no such folder; the data are not there")
            english = prepare("english", arguments)
            with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), silent) as pool:
                arms = [pool.submit(scored, english, arm, seed, arguments) for seed in arguments.seeds for arm in ARMS]
                for arm in arms:
                    append(arguments.results, [arm.result()])
        except GuidanceError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(show(arguments.results))
    return 0


def scored(english: Prepared, arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Pre-train one encoder, unless it is there, and score the pairs."""
    from attention_guidance.commands.studies.minimal_pairs import PairsProbe, minimal_pairs

    run = pretrained(english, seed, arm, arguments.runs)
    found = minimal_pairs(
        str(run), PairsProbe(arguments.data / "blimp"), run.with_name(f"{run.name}-blimp"), overwrite=True, quiet=True
    )
    return record_of(found, json_of(run / "results.json"), arm, seed)


def record_of(found: dict[str, Any], of_run: dict[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """What is kept of the scores of a run, both as in their result files."""
    (snapshot,) = found["snapshots"]
    return {
        **{name: found[name] for name in ("schema_version", "date", "versions", "device", "pairs")},
        "kind": "minimal_pairs",
        "arm": arm,
        "seed": seed,
        "steps": of_run["steps"],
        "tokens_per_step": of_run["tokens_per_step"],
        "loss": of_run["final_loss"],
        "train_seconds": of_run["train_seconds"],
        "accuracy": snapshot["accuracy"],
        "paradigms": snapshot["paradigms"],
    }


def show(path: Path) -> str:
    """The newest result of each encoder, as Markdown."""
    records = newest(path, "steps", "seed", "arm") if path.exists() else []
    if not records:
        return "nothing is kept yet"
    lines = ["| encoder | steps, seed | validation loss | pairs right, % (95 %) |", "|---|---|---|---|"]
    for record in sorted(records, key=lambda record: (record["steps"], record["seed"], record["arm"])):
        value, low, high = (100 * record["accuracy"][name] for name in ("value", "low", "high"))
        lines.append(
            f"| {record['arm']} | {record['steps']:,} x {record['tokens_per_step']:,} tokens, {record['seed']} | "
            f"{record['loss']:.2f} | {value:.1f} ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
