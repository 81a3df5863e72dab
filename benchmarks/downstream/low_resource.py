"""Is pre-training worth it where there is little text? A model without it, encoders, and both combined.

    python -m benchmarks.downstream.low_resource hausa              the recipe's settings, two seeds (hours on 2 cores)
    python -m benchmarks.downstream.low_resource swahili hausa yoruba english --jobs 16    on a GPU with as many cores
    python -m benchmarks.downstream.low_resource hausa --steps 1500 --finetune-seeds 2     a first look
    python -m benchmarks.downstream.low_resource hausa --with arch=modernbert              the same with another setting
    python -m benchmarks.downstream.low_resource --show             the table of what is kept

The text is cleaned and the settings are chosen as `attention-guidance recipe low-resource` does; sentences of dev and
test are left out of the text. Guided and unguided encoders are pre-trained alike, fine-tuned over seeds, and combined
with the model without pre-training: a CRF for the entities of three languages, a linear model for SST-2. Reads
../shared/data, which is not part of the project. Continues where it was stopped, as long as --runs exists. Each result
is appended to results/low_resource.jsonl.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers.utils import logging

from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.errors import GuidanceError

from .. import BENCHMARKS, DATA
from ..turns import keep
from .low_resource_tables import ARMS, PUBLISHED, show

RESULTS = BENCHMARKS / "results" / "low_resource.jsonl"
# The task of a language, and its folder in the data; for all others, entities.
_TASKS = {"english": ("sst2", "sst2", ".tsv")}


@dataclass(frozen=True)
class Prepared:
    """The cleaned text of a language, settings of pre-training, and where its runs are kept."""

    language: str
    text: Path
    flags: dict[str, Any]
    name: str

    def run(self, arm: str, seed: int, runs: Path) -> Path:
        """The folder of an arm's run."""
        return runs / f"{self.name}-{arm}-{self.flags['max_steps']}-{seed}"

    def output(self, seed: int, runs: Path) -> Path:
        """The folder of the fine-tunings of a seed."""
        return runs / f"{self.name}-{self.flags['max_steps']}-{seed}-downstream"


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.downstream.low_resource",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("languages", nargs="*", help=f"of {', '.join(PUBLISHED)}, or other folders of the data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="of pre-training (1 2)")
    parser.add_argument("--steps", type=int, help="of pre-training (the recipe's choice)")
    parser.add_argument(
        "--with", dest="changes", nargs="+", default=[], metavar="NAME=VALUE", help="settings of pretrain to change"
    )
    parser.add_argument("--jobs", type=int, default=1, help="arms in training at a time, each in a process (1)")
    parser.add_argument("--finetune-seeds", type=int, default=5, help="fine-tunings of each model (5)")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[], help="to choose from (finetune's)")
    parser.add_argument(
        "--runs", type=Path, default=BENCHMARKS.parent / "runs" / "low_resource", help="where runs are kept"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if not arguments.languages:
        parser.error("name a language, or --show")
    if failed := keep(arguments.results, studies(arguments)):
        return failed
    print(show(arguments.results))
    return 0


def studies(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of each language and seed of pre-training, as soon as both of its encoders are fine-tuned."""
    prepared = {language: prepare(language, arguments) for language in arguments.languages}
    wanted = [(language, seed) for seed in arguments.seeds for language in arguments.languages]
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), silent) as pool:
        arms = {
            pool.submit(train_arm, prepared[language], seed, arm, arguments): (language, seed)
            for language, seed in wanted
            for arm in ARMS
        }
        done: Counter[tuple[str, int]] = Counter()
        for trained in as_completed(arms):
            trained.result()
            language, seed = arms[trained]
            done[language, seed] += 1
            if done[language, seed] == len(ARMS):
                yield pool.submit(compare, prepared[language], seed, arguments).result()


def silent() -> None:
    """Let transformers print nothing; called in each process."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def train_arm(of: Prepared, seed: int, arm: str, arguments: argparse.Namespace) -> None:
    """Pre-train one encoder and fine-tune it over seeds; what is there already is used."""
    from attention_guidance.commands.finetuning.finetune import finetune

    run = pretrained(of, seed, arm, arguments.runs)
    output = of.output(seed, arguments.runs) / run.name
    print(f"fine-tuning {run.name}", file=sys.stderr, flush=True)
    finetune(str(run), _settings(of.language, arguments), output, resume=True, overwrite=True, quiet=True)


def pretrained(of: Prepared, seed: int, arm: str, runs: Path) -> Path:
    """The folder of a finished pre-training run; one that was stopped continues."""
    from attention_guidance.commands.pretraining.pretrain import pretrain
    from attention_guidance.commands.pretraining.settings.config import make_config

    run = of.run(arm, seed, runs)
    given = of.flags | {"corpus": [str(of.text)], "seed": seed, "save_every": 500}
    print(f"pre-training {run.name}", file=sys.stderr, flush=True)
    pretrain(make_config(given if arm == "guided" else given | {"heads": ""}), run, resume=True, quiet=True)
    return run


def compare(of: Prepared, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of one seed of pre-training, from its fine-tuned encoders."""
    from attention_guidance.commands.finetuning.downstream import downstream

    runs = {arm: of.run(arm, seed, arguments.runs) for arm in ARMS}
    output, settings = of.output(seed, arguments.runs), _settings(of.language, arguments)
    found = downstream([*map(str, runs.values())], settings, output, resume=True, overwrite=True, quiet=True)
    over = {arm: json_of(output / run.name / "finetune.json")["combined"] for arm, run in runs.items()}
    return {
        **{name: value for name, value in found.items() if name != "command"},
        "kind": "low_resource",
        "language": of.language,
        "seed": seed,
        "steps": of.flags["max_steps"],
        "changes": arguments.changes,
        **{
            name: {arm: json_of(run / "results.json")[name] for arm, run in runs.items()}
            for name in ("final_loss", "train_seconds")
        },
        "combined_over_baseline": {arm: of_arm["over_baseline"] for arm, of_arm in over.items()},
        "weights": {arm: of_arm["weights"] for arm, of_arm in over.items()},
    }


def _task(language: str, data: Path) -> tuple[str, dict[str, Path]]:
    """The task of a language, and its files."""
    name, folder, suffix = _TASKS.get(language, ("ner", f"{language}/ner", ".txt"))
    return name, {split: data / folder / f"{split}{suffix}" for split in ("train", "dev", "test")}


def _settings(language: str, arguments: argparse.Namespace) -> FinetuneSettings:
    name, files = _task(language, arguments.data)
    return FinetuneSettings(
        name, files, repair=True, seeds=arguments.finetune_seeds, learning_rates=tuple(arguments.learning_rates)
    )


def prepare(language: str, arguments: argparse.Namespace) -> Prepared:
    """Clean the text of a language, and choose the settings as the recipe does, with the changes asked for.

    Raises:
        GuidanceError: the data are not there.
    """
    from attention_guidance.commands.finetuning.examples.reading import read_examples
    from attention_guidance.commands.finetuning.examples.tasks import get_task
    from attention_guidance.commands.recipe.clean import clean
    from attention_guidance.commands.recipe.rules import choose
    from attention_guidance.commands.studies.sample import Text

    name, files = _task(language, arguments.data)
    if not files["train"].is_file():
        raise GuidanceError(f"{files['train']}: no such file; the data are not there")
    data = read_examples(get_task(name), files, repair=True)
    held_out = [" ".join(e.texts) for split in ("dev", "test") for e in data.splits[split]]
    kept, facts = clean(Text(files=(str(arguments.data / language / "train.txt"),)).read(), held_out)
    file: Path = arguments.runs / f"{language}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in kept)
    if not file.exists() or file.read_text(encoding="utf-8") != lines:
        file.write_text(lines, encoding="utf-8")
    # The vocabulary follows from the text, as in the recipe, where the rule is a bound.
    flags = {choice.name: choice.value for choice in choose(facts) if choice.name != "vocab_size"}
    pairs = (change.partition("=") for change in arguments.changes)
    changes = {setting: yaml.safe_load(value) for setting, _, value in pairs}
    steps = {"max_steps": arguments.steps} if arguments.steps else {}
    return Prepared(language, file, flags | steps | changes, "-".join([language, *arguments.changes]))


def json_of(file: Path) -> dict[str, Any]:
    """The content of a result file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    sys.exit(main())
