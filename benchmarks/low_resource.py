"""Is pre-training worth it where there is little text? A model without it, encoders, and both combined.

    python benchmarks/low_resource.py hausa                        the recipe's settings, two seeds (hours on 2 cores)
    python benchmarks/low_resource.py swahili hausa yoruba english --jobs 16         on a GPU with as many cores
    python benchmarks/low_resource.py hausa --steps 1500 --finetune-seeds 2 --learning-rates 1e-3     a first look
    python benchmarks/low_resource.py hausa --with arch=modernbert                   the same with another setting
    python benchmarks/low_resource.py --show                       the table of what is kept

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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from downstream import DATA, HERE
from transformers.utils import logging
from turns import append

from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.errors import GuidanceError

RESULTS = HERE / "results" / "low_resource.jsonl"
# Entity F1 of MasakhaNER 2.0's public predictions on these test files, means of five runs (Adelani et al. 2022).
PUBLISHED = {
    "swahili": {"XLM-R base": 92.2, "AfroXLMR base": 92.3},
    "hausa": {"XLM-R base": 83.8, "AfroXLMR base": 86.6},
    "yoruba": {"XLM-R base": 85.8, "AfroXLMR base": 88.3},
}
ARMS = ("unguided", "guided")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", help=f"of {', '.join(PUBLISHED)}, or other folders of the data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="of pre-training (1 2)")
    parser.add_argument("--steps", type=int, help="of pre-training (the recipe's choice)")
    parser.add_argument(
        "--with", dest="changes", nargs="+", default=[], metavar="NAME=VALUE", help="settings of pretrain to change"
    )
    parser.add_argument("--jobs", type=int, default=1, help="arms in training at a time, each in a process (1)")
    parser.add_argument("--finetune-seeds", type=int, default=5, help="fine-tunings of each model (5)")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[], help="to choose from (finetune's)")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "low_resource", help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if not arguments.languages:
        parser.error("name a language, or --show")
    try:
        for record in studies(arguments):
            append(arguments.results, [record])
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
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


Key = tuple[str, int, str, int]
"""Language, steps, changes of settings and seed of a result."""


def show(path: Path) -> str:
    """The newest results as Markdown: of the longest pre-training in brief, then all of them in full."""
    newest: dict[Key, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        changes = ", ".join(record.get("changes", ()))
        newest[record["language"], record["steps"], changes, record["seed"]] = record
    defaults = {key: record for key, record in newest.items() if not key[2]}
    tables = [of(records) for of, records in ((brief, defaults), (full, newest)) if records]
    return "\n\n".join(tables) or "nothing is kept yet"


def brief(newest: Mapping[Key, dict[str, Any]]) -> str:
    """What a person chooses between, for each language; encoders are combined with the model without pre-training."""
    longest = {language: max(steps for of, steps, *_ in newest if of == language) for language, *_ in newest}
    head = (
        "text, seed", "no pre-training", "unguided", "guided", "guided − no pre-training (95 %)",
        "guided − unguided (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows = [
        (
            f"{language.capitalize()}, {seed}",
            _baseline(record),
            *_means(record["combined"]),
            *_gaps(record),
            *_published(language),
        )
        for (language, steps, _, seed), record in sorted(newest.items())
        if steps == longest[language]
    ]
    return markdown(head, rows)


def full(newest: Mapping[Key, dict[str, Any]]) -> str:
    """Every result, with the encoders alone."""
    head = (
        "text", "steps, seed", "loss, unguided", "loss, guided", "fine-tunings",
        "no pre-training", "unguided", "guided", "unguided, both", "guided, both",
        "guided, both − no pre-training (95 %)", "guided, both − unguided, both (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows = [
        (
            language.capitalize() + (f", {changes}" if changes else ""),
            f"{steps:,}, {seed}",
            *(f"{record['final_loss'][arm]:.2f}" if "final_loss" in record else "–" for arm in ARMS),
            str(record["models"][0]["seeds"]),
            _baseline(record),
            *_means(record["models"]),
            *_means(record["combined"]),
            *_gaps(record),
            *_published(language),
        )
        for (language, steps, changes, seed), record in sorted(newest.items())
    ]
    return markdown(head, rows)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _baseline(record: dict[str, Any]) -> str:
    return f"{100 * record['baseline']['test'][record['metric']]:.1f}"


def _means(sides: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{100 * side['mean']:.1f}" for side in sides]


def _gaps(record: dict[str, Any]) -> list[str]:
    gaps = record["combined_over_baseline"]["guided"], record["combined_differences"][0]
    return [
        "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * gap[name] for name in ("value", "low", "high"))) for gap in gaps
    ]


def _published(language: str) -> list[str]:
    of_language = PUBLISHED.get(language, {})
    return [f"{of_language[name]:.1f}" if name in of_language else "–" for name in ("XLM-R base", "AfroXLMR base")]


if __name__ == "__main__":
    sys.exit(main())
