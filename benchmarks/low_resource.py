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
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
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
        for language in arguments.languages:
            if not _folder(language, arguments.data).is_dir():
                raise GuidanceError(f"{_folder(language, arguments.data)}: no such folder; the data are not there")
        for record in studies(arguments):
            append(arguments.results, [record])
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(show(arguments.results))
    return 0


def studies(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Results of each language and seed of pre-training, as soon as both of its encoders are fine-tuned."""
    wanted = [(language, seed) for seed in arguments.seeds for language in arguments.languages]
    for language in arguments.languages:
        _text(language, arguments)
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn"), silent) as pool:
        arms = {
            pool.submit(train_arm, language, seed, arm, arguments): (language, seed)
            for language, seed in wanted
            for arm in ARMS
        }
        done: Counter[tuple[str, int]] = Counter()
        for arm in as_completed(arms):
            arm.result()
            done[arms[arm]] += 1
            if done[arms[arm]] == len(ARMS):
                yield pool.submit(compare, *arms[arm], arguments).result()


def silent() -> None:
    """Let transformers print nothing; called in each process."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def train_arm(language: str, seed: int, arm: str, arguments: argparse.Namespace) -> None:
    """Pre-train one encoder and fine-tune it over seeds; what is there already is used."""
    from attention_guidance.commands.finetuning.finetune import finetune

    run = pretrained(language, seed, arm, arguments)
    _, output = _folders(language, seed, arm, _text(language, arguments)[1], arguments)
    print(f"fine-tuning {run.name}", file=sys.stderr, flush=True)
    finetune(str(run), _settings(language, arguments), output / run.name, resume=True, overwrite=True, quiet=True)


def pretrained(language: str, seed: int, arm: str, arguments: argparse.Namespace) -> Path:
    """The folder of a finished pre-training run; one that was stopped continues."""
    from attention_guidance.commands.pretraining.pretrain import pretrain
    from attention_guidance.commands.pretraining.settings.config import make_config

    text, flags = _text(language, arguments)
    run, _ = _folders(language, seed, arm, flags, arguments)
    given = flags | {"corpus": [str(text)], "seed": seed, "save_every": 500}
    print(f"pre-training {run.name}", file=sys.stderr, flush=True)
    pretrain(make_config(given if arm == "guided" else given | {"heads": ""}), run, resume=True, quiet=True)
    return run


def compare(language: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The result of one seed of pre-training, from its fine-tuned encoders."""
    from attention_guidance.commands.finetuning.downstream import downstream

    _, flags = _text(language, arguments)
    folders = {arm: _folders(language, seed, arm, flags, arguments) for arm in ARMS}
    runs, output = {arm: run for arm, (run, _) in folders.items()}, folders["guided"][1]
    settings = _settings(language, arguments)
    found = downstream([*map(str, runs.values())], settings, output, resume=True, overwrite=True, quiet=True)
    over = {arm: json_of(output / run.name / "finetune.json")["combined"] for arm, run in runs.items()}
    return {
        **{name: value for name, value in found.items() if name != "command"},
        "kind": "low_resource",
        "language": language,
        "seed": seed,
        "steps": flags["max_steps"],
        "changes": arguments.changes,
        **{
            name: {arm: json_of(run / "results.json")[name] for arm, run in runs.items()}
            for name in ("final_loss", "train_seconds")
        },
        "combined_over_baseline": {arm: of_arm["over_baseline"] for arm, of_arm in over.items()},
        "weights": {arm: of_arm["weights"] for arm, of_arm in over.items()},
    }


def _folder(language: str, data: Path) -> Path:
    """The folder of a language's labelled files."""
    return data / _TASKS[language][1] if language in _TASKS else data / language / "ner"


def _task(language: str, data: Path) -> tuple[str, dict[str, Path]]:
    """The task of a language, and its files."""
    name, _, suffix = _TASKS.get(language, ("ner", "ner", ".txt"))
    return name, {split: _folder(language, data) / f"{split}{suffix}" for split in ("train", "dev", "test")}


def _settings(language: str, arguments: argparse.Namespace) -> FinetuneSettings:
    name, files = _task(language, arguments.data)
    return FinetuneSettings(
        name, files, repair=True, seeds=arguments.finetune_seeds, learning_rates=tuple(arguments.learning_rates)
    )


def _folders(
    language: str, seed: int, arm: str, flags: Mapping[str, Any], arguments: argparse.Namespace
) -> tuple[Path, Path]:
    """The folder of an arm's run, and that of the seed's comparison."""
    changed = "".join(f"-{change}" for change in arguments.changes)
    stem = f"{language}{changed}"
    return (
        arguments.runs / f"{stem}-{arm}-{flags['max_steps']}-{seed}",
        arguments.runs / f"{stem}-{flags['max_steps']}-{seed}-downstream",
    )


def _text(language: str, arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The cleaned text, and the settings that the recipe chooses for it, with the changes asked for."""
    from attention_guidance.commands.finetuning.examples.reading import read_examples
    from attention_guidance.commands.finetuning.examples.tasks import get_task
    from attention_guidance.commands.recipe.clean import clean
    from attention_guidance.commands.recipe.rules import choose
    from attention_guidance.commands.studies.sample import Text

    name, files = _task(language, arguments.data)
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
    changes = {
        name: yaml.safe_load(value) for name, _, value in (change.partition("=") for change in arguments.changes)
    }
    return file, flags | ({"max_steps": arguments.steps} if arguments.steps else {}) | changes


def json_of(file: Path) -> dict[str, Any]:
    """The content of a result file."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def show(path: Path) -> str:
    """The newest result of each language, number of steps, change of settings and seed, as Markdown."""
    newest = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        changes = ", ".join(record.get("changes", ()))
        newest[record["language"], record["steps"], changes, record["seed"]] = record
    if not newest:
        return "nothing is kept yet"
    head = (
        "text", "steps, seed", "loss, unguided", "loss, guided", "fine-tunings",
        "no pre-training", "unguided", "guided", "unguided, both", "guided, both",
        "guided, both − no pre-training (95 %)", "guided, both − unguided, both (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for (language, steps, changes, seed), record in sorted(newest.items()):
        models, both = ([100 * side["mean"] for side in record[name]] for name in ("models", "combined"))
        published = PUBLISHED.get(language, {})
        rows.append(
            (
                language.capitalize() + (f", {changes}" if changes else ""),
                f"{steps:,}, {seed}",
                *(f"{record['final_loss'][arm]:.2f}" if "final_loss" in record else "–" for arm in ARMS),
                str(record["models"][0]["seeds"]),
                f"{100 * record['baseline']['test'][record['metric']]:.1f}",
                *(f"{mean:.1f}" for mean in (*models, *both)),
                _gap(record["combined_over_baseline"]["guided"]),
                _gap(record["combined_differences"][0]),
                *(f"{published[name]:.1f}" if name in published else "–" for name in head[-2:]),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _gap(gap: dict[str, Any]) -> str:
    value, low, high = (100 * gap[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
