"""How fast `finetune` trains, beside the loop of transformers' own examples on the same machine, batch and precision.

    python -m benchmarks.downstream.finetuning            measure (a quarter of an hour on 2 cores)
    python -m benchmarks.downstream.finetuning --show     the table of what is kept

The other arm is written as transformers' examples `run_glue_no_trainer.py` and `run_ner_no_trainer.py` train: a
DataLoader with dynamic padding, AdamW, a linear schedule, accelerate's mixed precision; once with batches drawn at
random as there, once with batches of like lengths. Arms take turns; figures are medians over rounds. Reads
../shared/data. Results are appended to results/finetuning.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import AutoModelForMaskedLM, get_scheduler, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.utils import logging

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.encoding import Encoded, encode
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.fit import fit
from attention_guidance.commands.finetuning.fits.new_model import new_model
from attention_guidance.commands.finetuning.fits.predict import collator
from attention_guidance.commands.finetuning.settings import FitSettings
from attention_guidance.commands.pretraining.model import told_by
from attention_guidance.commands.pretraining.settings.architectures import new_config
from attention_guidance.commands.pretraining.settings.arguments import choose_precision
from attention_guidance.commands.pretraining.settings.config import RunConfig
from attention_guidance.commands.tokenization.byte_level import train_tokenizer

from .. import BENCHMARKS, DATA
from ..turns import Arm, append, step_time, take_turns

RESULTS = BENCHMARKS / "results" / "finetuning.jsonl"
_TASKS = {"sst2": ("sst2", "tsv"), "ner": ("swahili/ner", "txt")}
_RATE = 5e-4


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.downstream.finetuning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=1024, help="of training (1,024)")
    parser.add_argument("--rounds", type=int, default=7, help="at most (7)")
    parser.add_argument("--seconds", type=float, default=400, help="for each task (400)")
    parser.add_argument("--work", type=Path, default=BENCHMARKS.parent / "runs" / "finetuning", help="for the model")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if not arguments.data.is_dir():
        print(f"error: the data in {arguments.data} are not there", file=sys.stderr)
        return 2
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for task, (folder, suffix) in _TASKS.items():
        files = {split: arguments.data / folder / f"{split}.{suffix}" for split in ("train", "dev")}
        append(arguments.results, [measured(task, files, arguments)])
    print(show(arguments.results))
    return 0


def measured(task: str, files: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """One task: tokens a second of ours over those of the examples' loop."""
    data = read_examples(get_task(task), files, repair=True)
    data.splits["train"][arguments.examples :] = []
    data.splits["dev"][32:] = []
    tokenizer = train_tokenizer((" ".join(e.texts) for e in data.splits["train"]), 2048, max_length=128, at_most=True)
    source = arguments.work / task
    set_seed(1)
    AutoModelForMaskedLM.from_config(new_config(RunConfig(), "roberta", told_by(tokenizer))).save_pretrained(source)
    encoded = {split: encode(data, examples, tokenizer, 128) for split, examples in data.splits.items()}
    settings = FitSettings(epochs=1)
    common = (data, encoded, str(source), tokenizer, settings)
    arms: dict[str, Arm] = {
        "examples' loop": _Example(*common, grouped=False),
        "examples' loop, like lengths": _Example(*common, grouped=True),
        "finetune": _Ours(*common),
    }
    for arm in arms.values():
        arm.step()
    times = take_turns(arms, arguments.rounds, arguments.seconds)
    n_tokens = sum(len(item["input_ids"]) for item in encoded["train"].inputs)
    ours = times.pop("finetune")
    return results.header("finetuning") | {
        "command": "python -m benchmarks.downstream.finetuning",
        "task": task,
        "items": len(encoded["train"].inputs),
        "tokens": n_tokens,
        "batch_size": settings.batch_size,
        "precision": choose_precision(settings.precision),
        "rounds": len(ours),
        "tokens_per_second": n_tokens / sorted(ours)[len(ours) // 2],
        # Theirs over ours in time is ours over theirs in speed.
        "speed": {name: step_time(seconds, ours) for name, seconds in times.items()},
    }


class _Ours:
    """`finetune`'s training, one epoch; its evaluation on dev is not counted."""

    def __init__(self, data: Data, encoded: dict[str, Encoded], source: str, tokenizer: Any, settings: FitSettings):
        self.arguments = (data, encoded, source, tokenizer)
        self.settings = settings

    def step(self) -> float:
        """An epoch."""
        found, _ = fit(*self.arguments, learning_rate=_RATE, seed=1, settings=self.settings)
        return found.seconds


class _Example(_Ours):
    """An epoch as the examples of transformers train."""

    def __init__(self, *common: Any, grouped: bool) -> None:
        super().__init__(*common)
        self.grouped = grouped

    def step(self) -> float:
        """An epoch."""
        set_seed(1)
        precision = choose_precision(self.settings.precision)
        accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision)
        data, encoded, source, tokenizer = self.arguments
        model = new_model(data, source, self.settings)
        size, items = self.settings.batch_size, encoded["train"].inputs
        sampler = LengthGroupedSampler(size, lengths=[len(item["input_ids"]) for item in items])
        order: dict[str, Any] = {"sampler": sampler} if self.grouped else {"shuffle": True}
        loader: Any = DataLoader(items, batch_size=size, collate_fn=collator(data, tokenizer), **order)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=self.settings.weight_decay)
        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        schedule = get_scheduler("linear", optimizer, round(self.settings.warmup_share * len(loader)), len(loader))
        model.train()
        began = time.perf_counter()
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return time.perf_counter() - began


def show(path: Path) -> str:
    """The newest figures of each task as Markdown."""
    newest = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        newest[record["task"]] = record
    if not newest:
        return "nothing is kept yet"
    head = ("task", "items", "tokens a second", *(f"over the {name}" for name in next(iter(newest.values()))["speed"]))
    rows = [head, ("---",) * len(head)]
    for task, record in newest.items():
        speeds = (f"{s['ratio']:.2f} ({s['ratio_low']:.2f} to {s['ratio_high']:.2f})" for s in record["speed"].values())
        rows.append((task, f"{record['items']:,}", f"{record['tokens_per_second']:,.0f}", *speeds))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
