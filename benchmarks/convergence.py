"""How much sooner a guided model gets there: `compare` with the defaults on real text, its figures kept here.

    python benchmarks/convergence.py english                 about an hour on 2 cores
    python benchmarks/convergence.py swahili --seeds 3
    python benchmarks/convergence.py --keep demo/seed-1      keep the figures of a comparison already made
    python benchmarks/convergence.py --show                  the table of all results kept so far

Reads the text of ../shared/data, which is not part of the project. Goes on where it was stopped. What it finds is
appended to results/convergence.jsonl, one line a comparison: device, versions, date, settings and every seed's figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "shared" / "data"
RESULTS = HERE / "results" / "convergence.jsonl"
_SETTINGS = ("preset", "block_size", "batch_size", "max_steps", "learning_rate", "heads", "weight", "schedule")
_KEPT = ("final_loss", "final_accuracy", "train_seconds", "step_seconds_p50", "curve")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", help="a folder of ../shared/data with train.txt and valid.txt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs", help="where the runs are kept")
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="folders that `compare` wrote")
    parser.add_argument("--show", action="store_true", help="print the table of the results kept so far")
    arguments = parser.parse_args()
    if arguments.text:
        keep(run(DATA / arguments.text, arguments.preset, arguments.seeds, arguments.runs))
    for folder in arguments.keep:
        keep(json.loads((folder / "compare.json").read_text(encoding="utf-8")))
    if arguments.show or arguments.text or arguments.keep:
        print(table())
    else:
        parser.error("name a text, --keep or --show")


def run(text: Path, preset: str, n_seeds: int, runs: Path) -> dict[str, Any]:
    """Compare guided and unguided on one text, with the defaults of a preset."""
    from attention_guidance.training.compare import compare
    from attention_guidance.training.config import make_config

    if not text.is_dir():
        sys.exit(f"error: the text {text} is not there; this benchmark reads ../shared/data")
    flags = {"corpus": [str(text / "train.txt")], "validation": [str(text / "valid.txt")], "preset": preset}
    config = make_config(flags)
    return compare(config, runs / f"convergence-{text.name}-{preset}", seeds=range(1, n_seeds + 1), resume=True)


def keep(comparison: dict[str, Any]) -> None:
    """Append the figures of a comparison to the results file."""
    kept = {key: comparison[key] for key in comparison if key not in ("config", "seeds", "command")}
    kept["settings"] = {key: comparison["config"][key] for key in _SETTINGS}
    kept["seeds"] = [
        seed | {arm: {key: seed[arm][key] for key in _KEPT} for arm in ("guided", "unguided")}
        for seed in comparison["seeds"]
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")


def table() -> str:
    """All results kept so far as a Markdown table, a row a seed."""
    head = ("text", "model", "steps", "seed", "unguided", "guided", "difference", "steps ratio", "step time", "memory")
    rows = [head, ("---",) * len(head)]
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        kept = json.loads(line)
        model = f"{kept['model']['layers']} x {kept['model']['hidden']}"
        for seed in kept["seeds"]:
            rows.append(
                (
                    kept["corpus"],
                    model,
                    f"{kept['steps']:,} x {kept['tokens_per_step']:,}",
                    str(seed["seed"]),
                    f"{seed['unguided']['final_loss']:.3f}",
                    f"{seed['guided']['final_loss']:.3f}",
                    f"{seed['final_loss_difference']:+.3f}",
                    "never" if seed["steps_ratio"] is None else f"{seed['steps_ratio']:.3f}",
                    f"{seed['step_time_ratio']:.2f}",
                    f"{kept['peak_memory']['ratio']:.2f}" if kept["peak_memory"] else "",
                )
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
