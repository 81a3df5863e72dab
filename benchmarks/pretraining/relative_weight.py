"""Does one relative weight serve every objective? Unguided, the default weight and relative weights beside each other.

    python -m benchmarks.pretraining.relative_weight                                   four objectives, three seeds
    python -m benchmarks.pretraining.relative_weight --objectives rtd --ratios 0.01 0.03 --weights 0.1
    python -m benchmarks.pretraining.relative_weight --show                            the table of what is kept

The text is the embedded Bible, the model smaller than the preset tiny, the run a few hundred steps on one thread. What
it finds is appended to results/relative_weight.jsonl, a line a run; a run that is kept already is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import make_config

from .. import BENCHMARKS
from ..turns import keep

RESULTS = BENCHMARKS / "results" / "relative_weight.jsonl"
OBJECTIVES = ("mlm", "rtd", "span", "mlm+sop")
_SIZE = {
    "preset": "tiny",
    "layers": 2,
    "hidden": 64,
    "feed_forward": 256,
    "vocab_size": 2048,
    "learning_rate": 2e-3,
    "max_validation_tokens": 4096,
    "precision": "fp32",
    "report_to": "none",
}
_KEPT = ("final_loss", "final_means", "curve", "guidance_weight", "guidance", "warnings")
_IDENTITY = ("objective", "arm", "seed", "steps", "more")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.relative_weight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES, metavar="NAME")
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.01], help="relative weights (0.01)")
    parser.add_argument("--weights", nargs="*", type=float, default=[], help="absolute ones, beside the default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--set", type=json.loads, default={}, help='other settings as JSON, such as {"hold": 0.5}')
    parser.add_argument("--only", nargs="+", default=None, metavar="ARM", help="unguided, default, ... (all)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        torch.set_num_threads(1)
        if failed := keep(
            arguments.results,
            runs(arguments),
            lambda run: f"{[run[name] for name in _IDENTITY]}: {run['final_loss']:.3f}",
        ):
            return failed
    print(show(arguments.results))
    return 0


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each run that is not kept yet, as soon as it is done."""
    arms: dict[str, dict[str, Any]] = {"unguided": {"heads": ""}, "default": {}}
    arms |= {f"weight {weight:g}": {"weight": weight} for weight in arguments.weights}
    arms |= {f"relative {ratio:g}": {"relative_weight": ratio} for ratio in arguments.ratios}
    data: dict[str, PreparedData] = {}
    known = {tuple(str(record[name]) for name in _IDENTITY) for record in read(arguments.results)}
    for seed in arguments.seeds:
        for objective in arguments.objectives:
            for arm in arguments.only or arms:
                named = dict(zip(_IDENTITY, (objective, arm, seed, arguments.steps, arguments.set), strict=True))
                if tuple(map(str, named.values())) in known:
                    continue
                settings = {"objective": objective, "seed": seed, "max_steps": arguments.steps}
                settings |= {"eval_every": max(1, arguments.steps // 10), "save_every": arguments.steps}
                config = make_config(_SIZE | settings | arms[arm] | arguments.set)
                if objective not in data:
                    data[objective] = prepare_data(config, lambda note: None)
                with tempfile.TemporaryDirectory() as folder:
                    run = Run(config, data[objective], RunFolder(Path(folder) / "run"))
                    run.train()
                    found = run.summary()
                yield (
                    results.header("relative_weight")
                    | {"command": "python -m benchmarks.pretraining.relative_weight"}
                    | named
                    | {name: found[name] for name in _KEPT}
                )


def read(path: Path) -> list[dict[str, Any]]:
    """All runs that are kept."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def show(path: Path) -> str:
    """The final validation losses as a Markdown table, a row for each objective and arm."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in read(path):
        more = ", ".join(f"{name} {value}" for name, value in record["more"].items())
        found.setdefault((record["objective"], record["arm"], str(record["steps"]), more), []).append(record)
    if not found:
        return "nothing is kept yet"
    head = ("objective", "arm", "steps", "also", "weight", "final loss", "seeds", "error of guided heads")
    rows = [head, ("---",) * len(head)]
    for key, of in found.items():
        weights = [weight for record in of for weight in record["guidance_weight"].values()]
        errors = [head["error"] for record in of for head in record["guidance"]]
        losses = [record["final_loss"] for record in sorted(of, key=lambda record: record["seed"])]
        rows.append(
            (
                *key,
                f"{min(weights):.3g} to {max(weights):.3g}" if weights else "",
                f"{statistics.mean(losses):.3f}",
                ", ".join(f"{loss:.3f}" for loss in losses),
                f"{statistics.mean(errors):.3f}" if errors else "",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
