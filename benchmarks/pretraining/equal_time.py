"""What else shortens pre-training? Other encoders, optimizers and masks, beside the recipe's, in the same CPU time.

    python -m benchmarks.pretraining.equal_time hausa --seconds 300    of CPU time for each arm, on one thread
    python -m benchmarks.pretraining.equal_time hausa --arms Muon --unguided
    python -m benchmarks.pretraining.equal_time --show                 the table of what is kept

Text and settings are the recipe's, with the changes of an arm. Two short trials measure the CPU time of a step of each
arm, and the arm makes as many steps as fit: the learning rate and the weight of guidance are scheduled for these. All
have the same tokenizer and are validated on the same masked tokens. Muon (`torch.optim.Muon`) trains the matrices of
the layers, with updates as large as AdamW's; AdamW the rest. Reads ../shared/data, which is not part of the project.
Each run is appended to results/equal_time.jsonl.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import Trainer

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.config import make_config

from .. import BENCHMARKS, DATA
from ..downstream.low_resource import Prepared, prepare
from ..turns import keep, newest

RESULTS = BENCHMARKS / "results" / "equal_time.jsonl"
_TRIALS = (4, 20)  # steps; both validate as often, so that their difference is of steps alone
_KEPT = ("final_loss", "final_accuracy", "curve", "guidance", "model", "warnings")
# ModernBERT's default deviation of 0.02 suits a width of 768; a width of 256 needs more.
_MUON = {"optimizer": "muon"}
_MODERN = {"arch": "modernbert", "initializer_range": 0.05}
ARMS: dict[str, dict[str, Any]] = {
    "the recipe's": {},
    "ModernBERT": _MODERN,
    "Muon": _MUON,
    "ModernBERT, Muon": _MODERN | _MUON,
    "masking from 30 to 15 %": {"masking_rate": 0.3, "final_masking_rate": 0.15},
    "learning rate 2e-3": {"learning_rate": 2e-3},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.equal_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("language", nargs="?", help="a folder of the data, such as hausa")
    parser.add_argument("--seconds", type=float, default=300, help="of CPU time of each arm (300)")
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS], metavar="NAME", help=", ".join(ARMS))
    parser.add_argument("--unguided", action="store_true", help="train without guidance")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument(
        "--with", dest="changes", nargs="+", default=[], metavar="NAME=VALUE", help="settings to change in all arms"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        if arguments.language is None:
            parser.error("name a language, or --show")
        torch.set_num_threads(1)
        if failed := keep(arguments.results, runs(arguments), lambda run: f"{run['arm']}: {run['final_loss']:.3f}"):
            return failed
    print(show(arguments.results))
    return 0


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each run, as soon as it is done."""
    with tempfile.TemporaryDirectory() as folder:
        text = prepare(arguments.language, argparse.Namespace(**vars(arguments), steps=0, runs=Path(folder)))
        for seed in arguments.seeds:
            for arm in arguments.arms:
                changes = ARMS[arm] | {"seed": seed} | ({"heads": ""} if arguments.unguided else {})
                trials = [changes | {"max_steps": steps, "eval_every": steps} for steps in _TRIALS]
                few, more = (trained(text, trial)["cpu_seconds"] for trial in trials)
                step = (more - few) / (_TRIALS[1] - _TRIALS[0])
                steps = max(1, round(arguments.seconds / step))
                found = trained(text, changes | {"max_steps": steps})
                yield (
                    results.header("equal_time")
                    | {"command": "benchmarks.pretraining.equal_time", "text": arguments.language, "arm": arm}
                    | {"guided": not arguments.unguided, "seed": seed, "seconds": arguments.seconds}
                    | {"settings": " ".join(arguments.changes)}
                    | {"steps": steps, "step_cpu_seconds": step, "cpu_seconds": found["cpu_seconds"]}
                    | {"tokens_per_step": found["tokens_per_step"]}
                    | {name: found[name] for name in _KEPT}
                )


def trained(text: Prepared, changes: dict[str, Any]) -> dict[str, Any]:
    """The result of pre-training on a text with the recipe's settings and these changes, and the CPU time it took."""
    steps = changes["max_steps"]
    flags = text.flags | {"corpus": [str(text.text)], "report_to": "none", "save_every": steps}
    flags |= {"eval_every": max(1, steps // 10)} | changes
    optimizer = flags.pop("optimizer", None)
    make = mock.patch.object(Trainer, "create_optimizer", with_muon) if optimizer else nullcontext()
    with tempfile.TemporaryDirectory() as folder, make:
        began = time.process_time()
        found = pretrain(make_config(flags), Path(folder) / "run", quiet=True)
        return found | {"cpu_seconds": time.process_time() - began}


def with_muon(trainer: Trainer, *_: Any) -> torch.optim.Optimizer:
    """Muon for the matrices of the layers, AdamW for the rest; in place of `Trainer.create_optimizer`."""
    optimizer = trainer.optimizer = _MuonAndAdamW(trainer)
    return optimizer


class _MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers with one schedule."""

    def __init__(self, trainer: Trainer) -> None:
        settings = {"lr": trainer.args.learning_rate, "weight_decay": trainer.args.weight_decay}
        layers = [p for name, p in trainer.model.named_parameters() if p.ndim == 2 and ".layer" in name]
        among = {id(parameter) for parameter in layers}
        others = [p for p in trainer.model.parameters() if id(p) not in among and p.requires_grad]
        self._muon = torch.optim.Muon(layers, adjust_lr_fn="match_rms_adamw", **settings)
        self._adamw = torch.optim.AdamW(others, **settings)
        super().__init__([{"params": layers}, {"params": others}], settings)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        for group, optimizer in zip(self.param_groups, (self._muon, self._adamw), strict=True):
            optimizer.param_groups[0]["lr"] = group["lr"]
            optimizer.step()


def show(path: Path) -> str:
    """The newest run of each arm as a Markdown table."""
    head = ("text", "setting", "guided", "seed", "steps", "CPU seconds", "validation loss", "masked tokens right")
    rows = [head, ("---",) * len(head)]
    for record in newest(path, "text", "settings", "seconds", "guided", "arm", "seed"):
        rows.append(
            (
                record["text"].capitalize(), " ".join([record["arm"], record["settings"]]).strip(),
                "yes" if record["guided"] else "no", str(record["seed"]),
                f"{record['steps']:,}", f"{record['cpu_seconds']:.0f}", f"{record['final_loss']:.3f}",
                f"{record['final_accuracy']:.1%}",
            )
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) if len(rows) > 2 else "nothing is kept yet"


if __name__ == "__main__":
    sys.exit(main())
