"""How much sooner a guided model gets there: `compare` with the defaults on real text, its figures kept here.

    python -m benchmarks.pretraining.convergence english                 about an hour on 2 cores
    python -m benchmarks.pretraining.convergence swahili --seeds 3
    python -m benchmarks.pretraining.convergence english --preset tiny --seeds 3 --objectives mlm span rtd
    python -m benchmarks.pretraining.convergence --keep demo/seed-1      keep the figures of a comparison already made
    python -m benchmarks.pretraining.convergence --show                  the tables of all results kept so far

Reads the text of ../shared/data, which is not part of the project. Goes on where it was stopped. What it finds is
appended to results/convergence.jsonl, one line a comparison: device, versions, date, settings and every seed's figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from .. import BENCHMARKS, DATA
from ..turns import append

RESULTS = BENCHMARKS / "results" / "convergence.jsonl"
_SETTINGS = (
    "objective",
    "preset",
    "block_size",
    "batch_size",
    "max_steps",
    "learning_rate",
    "heads",
    "weight",
    "schedule",
)
_KEPT = ("final_loss", "final_accuracy", "train_seconds", "step_seconds_p50", "curve")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="?", help="a folder of ../shared/data with train.txt and valid.txt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--objectives", nargs="+", default=["mlm"], metavar="NAME", help="each in turn (mlm)")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=BENCHMARKS.parent / "runs", help="where the runs are kept")
    parser.add_argument("--keep", type=Path, nargs="+", default=[], help="folders that `compare` wrote")
    parser.add_argument("--show", action="store_true", help="print the table of the results kept so far")
    arguments = parser.parse_args()
    for objective in arguments.objectives if arguments.text else ():
        keep(run(objective, arguments), arguments.results)
    for folder in arguments.keep:
        keep(json.loads((folder / "compare.json").read_text(encoding="utf-8")), arguments.results)
    if arguments.show or arguments.text or arguments.keep:
        print(table(arguments.results))
        print(by_objective(arguments.results))
    else:
        parser.error("name a text, --keep or --show")


def run(objective: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare guided and unguided on one text, with the defaults of a preset."""
    from attention_guidance.commands.pretraining.compare import compare
    from attention_guidance.commands.pretraining.settings.config import make_config

    text, preset = arguments.data / arguments.text, arguments.preset
    if not text.is_dir():
        sys.exit(f"error: the text {text} is not there; this benchmark reads ../shared/data")
    flags = {"corpus": [str(text / "train.txt")], "validation": [str(text / "valid.txt")], "preset": preset}
    name = f"convergence-{text.name}-{preset}{'' if objective == 'mlm' else f'-{objective}'}"
    seeds = range(1, arguments.seeds + 1)
    return compare(make_config(flags | {"objective": objective}), arguments.runs / name, seeds=seeds, resume=True)


def keep(comparison: dict[str, Any], results: Path) -> None:
    """Append the figures of a comparison to the results file."""
    kept = {key: comparison[key] for key in comparison if key not in ("config", "seeds", "command")}
    # Comparisons made before there were others have none.
    kept["settings"] = {key: comparison["config"].get(key, "mlm") for key in _SETTINGS}
    kept["seeds"] = [
        seed | {arm: {key: seed[arm][key] for key in _KEPT} for arm in ("guided", "unguided")}
        for seed in comparison["seeds"]
    ]
    append(results, [kept])


def read(results: Path) -> list[dict[str, Any]]:
    """All results kept so far."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []


def by_objective(results: Path) -> str:
    """The newest comparison of each objective at one size and text as a Markdown table; losses are means over seeds."""
    newest = {(k["corpus"], k["settings"]["preset"], k["settings"].get("objective", "mlm")): k for k in read(results)}
    others = {key[:2] for key in newest if key[2] != "mlm"}
    head = ("objective", "text", "model", "steps", "unguided", "guided", "steps ratio of each seed")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for (corpus, preset, objective), kept in newest.items():
        if (corpus, preset) in others:
            losses = [_mean([seed[arm]["final_loss"] for seed in kept["seeds"]]) for arm in ("unguided", "guided")]
            ratios = ["never" if s["steps_ratio"] is None else f"{s['steps_ratio']:.2f}" for s in kept["seeds"]]
            model, steps = f"{kept['model']['type']}, {preset}", f"{kept['steps']:,} x {kept['tokens_per_step']:,}"
            rows.append((f"`{objective}`", corpus, model, steps, *losses, ", ".join(ratios)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if others else ""


def _mean(values: list[float | None]) -> str:
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return "diverged"
    return f"{statistics.mean(finite):.3f}" + (f" ± {statistics.stdev(finite):.3f}" if len(finite) > 1 else "")


def table(results: Path) -> str:
    """The results for masked tokens as a Markdown table, a row a seed."""
    head = ("text", "model", "steps", "seed", "unguided", "guided", "difference", "steps ratio", "step time", "memory")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for kept in read(results):
        if kept["settings"].get("objective", "mlm") != "mlm":
            continue
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
