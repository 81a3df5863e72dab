"""The whole job beside transformers' own way: `attention-guidance pretrain` and what its `run_mlm.py` example does.

    python -m benchmarks.pretraining.run_mlm                                 three rounds (hours on 2 cores)
    python -m benchmarks.pretraining.run_mlm --preset tiny --steps 50 --rounds 1
    python -m benchmarks.pretraining.run_mlm --show                          the tables of what is kept

Needs `pip install datasets`, and the English of ../shared/data or another `--text`. Three arms take turns, each a
process of its own that reads, tokenizes, trains and saves: the baseline, written from transformers' documentation
(`datasets`, blocks of concatenated lines, DataCollatorForLanguageModeling, Trainer), `pretrain --heads ''`, and
`pretrain` with its default heads. All have the same text, tokenizer, model configuration, seed, optimizer, schedule,
precision, steps, tokens a step and threads, and new caches. The tokenizer is trained before and counted for none; what
it adds to a `pretrain` that trains its own is kept too. The baseline never validates and saves once; `pretrain`
validates and saves checkpoints as by default, which counts in its time. All models are then validated by the same
function on the same masked tokens. Rounds differ in their seed. Results are appended to results/run_mlm.jsonl, a line a
round.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from attention_guidance.commands import results
from attention_guidance.commands.objectives.base import validate, validation_batches
from attention_guidance.commands.pretraining.model import told_by
from attention_guidance.commands.pretraining.preparation.objective import objective_of
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.preparation.prepared import PreparedData
from attention_guidance.commands.pretraining.settings.architectures import new_config
from attention_guidance.commands.pretraining.settings.arguments import best_device, choose_precision
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config

from .. import BENCHMARKS, DATA
from ..turns import append
from .run_mlm_tables import show

TEXT = DATA / "english"
RESULTS = BENCHMARKS / "results" / "run_mlm.jsonl"
ARMS = ("run_mlm", "unguided", "guided")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pretraining.run_mlm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--steps", type=int, help="of each arm (those of the preset)")
    parser.add_argument("--rounds", type=int, default=3, help="in which each arm runs once (3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch and of tokenizers (all cores)")
    parser.add_argument("--precision", default="auto", help="of all arms: auto, bf16 or fp32 (auto)")
    parser.add_argument("--text", type=Path, default=TEXT, help="a folder with train.txt and valid.txt")
    parser.add_argument("--work", type=Path, help="where models and caches are written (a temporary folder)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if not arguments.show:
        if missing := [str(file) for file in _files(arguments.text) if not file.is_file()]:
            print(f"error: {' and '.join(missing)} not found", file=sys.stderr)
            return 2
        if importlib.util.find_spec("datasets") is None:
            print("error: the baseline needs the package datasets: pip install datasets", file=sys.stderr)
            return 2
        measure(arguments)
    print(show(arguments.results))
    return 0


def _files(text: Path) -> tuple[Path, Path]:
    return text / "train.txt", text / "valid.txt"


def measure(arguments: argparse.Namespace) -> None:
    """Run all rounds, each kept once it is done."""
    os.environ |= {"RAYON_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "true"}
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    begun = results.header("run_mlm")["date"]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        job = Job(Path(folder), arguments)
        for number in range(1, arguments.rounds + 1):
            append(arguments.results, [job.round(number) | {"begun": begun}])


class Job:
    """What all arms of all rounds share.

    Args:
        work: An empty folder to write to.
        arguments: Those of the command line.
    """

    def __init__(self, work: Path, arguments: argparse.Namespace) -> None:
        self.work, self.threads, self.text = work, arguments.threads, arguments.text
        train, valid = map(str, _files(arguments.text))
        given = {"corpus": [train], "validation": [valid], "preset": arguments.preset, "max_steps": arguments.steps}
        self.config = make_config(given | {"precision": arguments.precision})
        self.tokenizer = work / "tokenizer"
        data, with_training = prepared(self.config)
        data.processor.save_pretrained(self.tokenizer)
        self.config = dataclasses.replace(self.config, tokenizer=str(self.tokenizer))
        self.data, without = prepared(self.config)
        self.tokenizer_seconds = with_training - without
        self.objective = objective_of(self.config, self.data.tokenizer)
        new_config(self.config, self.objective.arch, told_by(self.data.processor)).save_pretrained(work / "config")

    def round(self, number: int) -> dict[str, Any]:
        """Run each arm once, in an order that changes from round to round; the seed is the number of the round."""
        config = dataclasses.replace(self.config, seed=number)
        order = random.Random(number).sample(ARMS, len(ARMS))
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            found = {arm: self.arm(arm, config, Path(folder)) for arm in order}
        header = results.header("run_mlm")
        return header | {
            "versions": header["versions"] | {"datasets": version("datasets")},
            "command": "python -m benchmarks.pretraining.run_mlm",
            "text": f"{self.text.name}/train.txt",
            "preset": config.preset,
            "steps": config.max_steps,
            "tokens_per_step": config.batch_size * config.block_size,
            "vocabulary": len(self.data.processor),
            "threads": self.threads,
            "precision": choose_precision(config.precision),
            "round": number,
            "tokenizer_seconds": self.tokenizer_seconds,
            "arms": found,
            "ratios": ratios(found),
        }

    def arm(self, arm: str, config: RunConfig, folder: Path) -> dict[str, Any]:
        """One arm as a process of its own: its figures, and the validation loss of the model that it saved."""
        output = folder / arm
        caches = {"HF_DATASETS_CACHE": "datasets", "HF_HOME": "hub", "ATTENTION_GUIDANCE_CACHE": "blocks"}
        environment = os.environ | {name: str(folder / f"{arm}-{cache}") for name, cache in caches.items()}
        environment["OMP_NUM_THREADS"] = str(self.threads)
        figures = folder / f"{arm}.json"
        what = self._baseline(config, output) if arm == "run_mlm" else self._pretrain(arm, config, output)
        print(f"round {config.seed}: {arm}", flush=True)
        command = [sys.executable, "-m", "benchmarks.pretraining.run_mlm_arm", str(time.time()), str(figures), *what]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {arm} exited with {done.returncode}\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
        tokens = found["steps"] * config.batch_size * config.block_size
        model = output if arm == "run_mlm" else output / "model"
        speed = tokens / found["training_seconds"]
        return found | {"tokens_per_second": speed, "final_loss": self.validation_loss(model)}

    def _baseline(self, config: RunConfig, output: Path) -> list[str]:
        """Its settings; those of training are `pretrain`'s."""
        arguments = {
            "max_steps": config.max_steps,
            "per_device_train_batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": round(config.warmup_share * config.max_steps),
            "weight_decay": config.weight_decay,
            "adam_beta2": 0.98,
            "max_grad_norm": config.max_grad_norm,
            "bf16": choose_precision(config.precision) == "bf16",
            # Without it, Trainer refuses bf16 where there is no GPU.
            "use_cpu": best_device().type == "cpu",
            "seed": config.seed,
            "save_strategy": "no",
        }
        settings = {
            "train": config.corpus[0],
            "tokenizer": str(self.tokenizer),
            "config": str(self.work / "config"),
            "output": str(output),
            "block_size": config.block_size,
            "arguments": arguments,
        }
        return ["run_mlm", json.dumps(settings)]

    def _pretrain(self, arm: str, config: RunConfig, output: Path) -> list[str]:
        flags = ["pretrain", *config.corpus, "--validation", *config.validation, "--tokenizer", str(self.tokenizer)]
        flags += ["--preset", config.preset, "--max-steps", str(config.max_steps), "--precision", config.precision]
        flags += ["--seed", str(config.seed), "--output", str(output)]
        return flags if arm == "guided" else [*flags, "--heads", ""]

    def validation_loss(self, model: Path) -> float:
        """The validation loss of a saved model, as `pretrain` computes it: on the same tokens with the same masks."""
        batches = validation_batches(self.data.validation, self.objective, self.config.batch_size)
        half = choose_precision(self.config.precision) == "bf16"
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=half)
        return validate(self.objective.trained_model(str(model)), self.objective, batches, autocast).loss


def prepared(config: RunConfig) -> tuple[PreparedData, float]:
    """The data of a run, and the seconds that preparing them took."""
    began = time.perf_counter()
    data = prepare_data(config, lambda note: None)
    return data, time.perf_counter() - began


def ratios(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The figures of `pretrain`'s arms over the baseline's; None for a loss that an arm never reached."""
    baseline = arms["run_mlm"]
    whole = baseline["whole_seconds"]
    found: dict[str, dict[str, float | None]] = {}
    for arm in ("unguided", "guided"):
        ours = arms[arm]
        reached = {name: seconds_to(ours["validations"], arms[name]["final_loss"]) for name in ("unguided", "run_mlm")}
        found[arm] = {
            **{f"to_{name}_loss": None if seconds is None else seconds / whole for name, seconds in reached.items()},
            **{name: ours[name] / baseline[name] for name in ("whole_seconds", "tokens_per_second", "peak_mib")},
        }
    return found


def seconds_to(validations: Sequence[dict[str, float]], loss: float) -> float | None:
    """When a run first reached a loss, linearly between two validations; None if it never did."""
    before: dict[str, float] | None = None
    for now in validations:
        if now["loss"] <= loss:
            if before is None:
                return now["seconds"]
            share = (before["loss"] - loss) / (before["loss"] - now["loss"])
            return before["seconds"] + share * (now["seconds"] - before["seconds"])
        before = now
    return None


if __name__ == "__main__":
    sys.exit(main())
