"""Does guidance help downstream? Pre-trains guided and unguided alike, fine-tunes each over seeds, compares.

    python -m benchmarks.downstream.tasks short                     every task, 1,500 steps (hours on 2 cores)
    python -m benchmarks.downstream.tasks short --texts swahili --tasks ner
    python -m benchmarks.downstream.tasks long --texts swahili      6,000 steps, the unguided learning rate chosen first
    python -m benchmarks.downstream.tasks short --pretrain-only     the runs alone
    python -m benchmarks.downstream.tasks --overlap                 how many test sentences stand in the texts
    python -m benchmarks.downstream.tasks --show                    the tables of all results kept so far

Three models are fine-tuned on each task: unguided and guided after as many steps, and guided at its first checkpoint
whose validation loss is not above unguided's last (--without-overtaking leaves that one out). Reads ../shared/data,
which is not part of the project. Goes on where it was stopped, as long as --runs is there. What it finds is appended to
results/downstream.jsonl, a line a task.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import BENCHMARKS, DATA
from ..turns import keep
from .tables import show

if TYPE_CHECKING:
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

RESULTS = BENCHMARKS / "results" / "downstream.jsonl"
TASKS = {"swahili": ("ner",), "hausa": ("ner",), "yoruba": ("ner",), "english": ("cola", "sst2", "rte")}
STEPS = {"short": 1500, "long": 6000}
# Validations and checkpoints in a run: where guided overtakes is known to a twentieth of it.
_LOOKS = 20
_DEFAULT_RATE = 1e-3
# What the unguided model of the long study chooses from, by its validation loss after the short one.
_RATES = (5e-4, _DEFAULT_RATE, 2e-3)
_SEEDS = 5


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.downstream.tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", nargs="?", choices=[*STEPS])
    parser.add_argument("--texts", nargs="+", choices=[*TASKS], default=[*TASKS])
    parser.add_argument("--tasks", nargs="+", choices=["ner", "cola", "sst2", "rte"])
    parser.add_argument(
        "--runs", type=Path, default=BENCHMARKS.parent / "runs" / "downstream", help="where runs are kept"
    )
    parser.add_argument("--pretrain-only", action="store_true")
    parser.add_argument("--without-overtaking", action="store_true", help="fine-tune the two finished models alone")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--steps", type=int, help="of pre-training (1,500 or 6,000)")
    parser.add_argument("--seeds", type=int, default=_SEEDS, help="of fine-tuning (5)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--overlap", action="store_true", help="count the test sentences in the texts, and keep that")
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if arguments.study is None and not arguments.overlap:
        parser.error("name a study, --overlap or --show")
    if not arguments.data.is_dir():
        print(f"error: the data in {arguments.data} are not there", file=sys.stderr)
        return 2
    if failed := keep(arguments.results, overlaps(arguments) if arguments.overlap else study(arguments), json.dumps):
        return failed
    print(show(arguments.results))
    return 0


def study(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each task's comparison, as soon as it is known."""
    for text in arguments.texts:
        steps = arguments.steps or STEPS[arguments.study]
        rate = _DEFAULT_RATE if arguments.study == "short" else tuned_rate(text, arguments)
        unguided = pretrained(text, arguments, guided=False, steps=steps, rate=rate)
        guided = pretrained(text, arguments, guided=True, steps=steps, rate=_DEFAULT_RATE)
        if arguments.pretrain_only:
            continue
        early = overtaking(guided, unguided)
        for task in TASKS[text]:
            if arguments.tasks is None or task in arguments.tasks:
                yield compared(text, task, unguided, guided, early, arguments)


def overlaps(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """How many sentences of each test file of entities stand in the text, but for case and punctuation."""
    from attention_guidance.commands import results

    for text in arguments.texts:
        if (arguments.data / text / "ner" / "test.txt").is_file():
            stand_there = in_text(arguments.data / text)
            different = dict(stand_there)
            what = {"command": "python -m benchmarks.downstream.tasks --overlap", "text": text}
            yield results.header("overlap") | what | {"found": sum(different.values()), "of": len(different)}


def in_text(folder: Path) -> list[tuple[tuple[str, ...], bool]]:
    """Of each sentence of the test file its words, as they are compared, and whether it stands in the text."""
    from attention_guidance.commands.annotations.tagged import read_tagged
    from attention_guidance.commands.recipe.clean import HeldOut, normalized_words

    sentences = [" ".join(s.words) for s in read_tagged(folder / "ner" / "test.txt", repair=True).sentences]
    held_out = HeldOut(sentences)
    lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines()
    found = {sentence for line in lines for sentence, _ in held_out.within([line])}
    return [(normalized_words(sentence), normalized_words(sentence) in found) for sentence in sentences]


def on_unseen(output: Path, names: Sequence[str], folder: Path, seeds: Iterable[int]) -> dict[str, Any]:
    """Differences to the first of several models on the sentences that do not stand in the text."""
    from attention_guidance.commands.finetuning.scoring.paired import Predictions, difference
    from attention_guidance.commands.finetuning.scoring.predictions import read_predictions

    unseen = [number for number, (_, stands_there) in enumerate(in_text(folder)) if not stands_there]

    def kept(name: str) -> Predictions:
        every = read_predictions(output / name, "test", "tokens", seeds)
        gold, *predicted = (tuple(row[n] for n in unseen) for row in (every.gold, *every.predicted))
        return Predictions(gold, tuple(predicted))

    first, *others = names
    gaps = {name: dataclasses.asdict(difference(kept(name), kept(first), "f1", "tokens")) for name in others}
    return {"sentences": len(unseen), "differences": gaps}


def pretrained(text: str, arguments: argparse.Namespace, *, guided: bool, steps: int, rate: float) -> Path:
    """A finished run of the study, made or gone on with if it is not there."""
    name = f"{text}-{'guided' if guided else 'unguided'}-{steps}-{rate:g}"
    corpus = [str(arguments.data / text / "train.txt")]
    flags = {"corpus": corpus, "max_steps": steps, "learning_rate": rate} | ({} if guided else {"heads": ""})
    return finished_run(text, name, flags, arguments)


def finished_run(text: str, name: str, flags: dict[str, Any], arguments: argparse.Namespace) -> Path:
    """A finished run with any settings, likewise."""
    from attention_guidance.commands.pretraining.pretrain import pretrain
    from attention_guidance.commands.pretraining.settings.config import make_config

    output: Path = arguments.runs / name
    every = max(1, flags["max_steps"] // _LOOKS)
    validation = [str(arguments.data / text / "valid.txt")]
    looks = {"validation": validation, "keep_checkpoints": _LOOKS, "save_every": every, "eval_every": every}
    print(f"pre-training {output.name}", file=sys.stderr, flush=True)
    # One that has ended is taken, if it is of these settings.
    pretrain(make_config(looks | {"preset": arguments.preset} | flags), output, resume=True, quiet=True)
    return output


def tuned_rate(text: str, arguments: argparse.Namespace) -> float:
    """The unguided learning rate whose validation loss is lowest after the short study."""
    steps = min(STEPS["short"], arguments.steps or STEPS["short"])
    losses = {
        rate: _read(pretrained(text, arguments, guided=False, steps=steps, rate=rate))["final_loss"] for rate in _RATES
    }
    return min(losses, key=lambda rate: losses[rate])


def overtaking(guided: Path, unguided: Path) -> Path:
    """Guided's first checkpoint that predicts no worse than the finished unguided model."""
    target = _read(unguided)["final_loss"]
    for entry in _read(guided)["curve"]:
        folder = guided / "checkpoints" / f"checkpoint-{entry['step']}"
        if entry["loss"] <= target and folder.is_dir():
            return folder
    return guided


def compared(
    text: str, task: str, unguided: Path, guided: Path, early: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """One task, fine-tuned from three models."""
    from attention_guidance.commands.finetuning.downstream import downstream

    settings = finetune_settings(text, task, arguments)
    tuned = (unguided, guided) if arguments.without_overtaking else (unguided, guided, early)
    models = [str(path) for path in dict.fromkeys(tuned)]
    output = arguments.runs / f"{arguments.study}-{text}-{task}"
    print(f"fine-tuning {output.name}", file=sys.stderr, flush=True)
    # With the third model or without: what was compared before stands in the results.
    found = downstream(models, settings, output, resume=True, overwrite=True, quiet=True)
    names = [model["model"] for model in found["models"]]
    arms = dict(zip(names, ("unguided", "guided", "overtaking"), strict=False))
    kept = {name: value for name, value in found.items() if name not in ("command", "models", "differences")}
    if task == "ner":
        unseen = on_unseen(output, names, arguments.data / text, settings.seeds_used)
        unseen["differences"] = {arms[name]: gap for name, gap in unseen["differences"].items()}
        kept["unseen"] = unseen
    return {
        **kept,
        "study": arguments.study,
        "text": text,
        "pretraining": {"unguided": _facts(unguided), "guided": _facts(guided)},
        "overtaking_step": _step(early, guided),
        "models": {arms[model.pop("model")]: model for model in found["models"]},
        "differences": {arms[gap.pop("model")]: gap for gap in found["differences"]},
    }


def finetune_settings(text: str, task: str, arguments: argparse.Namespace) -> FinetuneSettings:
    """A task and its files; what is there as dev is tested on where there is no test file."""
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

    folder = arguments.data / text / "ner" if task == "ner" else arguments.data / task
    suffix = "txt" if task == "ner" else "tsv"
    files = {split: folder / f"{split}.{suffix}" for split in ("train", "dev", "test")}
    if not files["test"].is_file():
        # The one to choose on is held out of training.
        files = {"train": files["train"], "test": files["dev"]}
    return FinetuneSettings(task, files, repair=True, seeds=arguments.seeds)


def _facts(run: Path) -> dict[str, Any]:
    result = _read(run)
    config = result["config"]
    return {name: config[name] for name in ("preset", "max_steps", "learning_rate", "seed", "heads", "weight")} | {
        name: result[name] for name in ("tokens_per_step", "final_loss", "train_seconds")
    }


def _step(early: Path, guided: Path) -> int:
    return int(_read(guided)["steps"]) if early == guided else int(early.name.rpartition("-")[2])


def _read(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    sys.exit(main())
