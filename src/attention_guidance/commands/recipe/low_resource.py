"""`attention-guidance recipe low-resource`: a text and labelled data in, a model and an honest page out."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.downstream import downstream
from attention_guidance.commands.finetuning.examples.data import Data
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.splits import find_files, hold_out
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.finetune import finetune
from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.checks import check_apart, check_settings
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.recipe.clean import TextFacts, clean
from attention_guidance.commands.recipe.rules import Choice, choose
from attention_guidance.commands.report.recipe_page import write_recipe_page
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.sample import Text
from attention_guidance.commands.text.tables import read_table
from attention_guidance.commands.workspace import RECIPE, State, nothing_to_resume
from attention_guidance.errors import ConfigError, CorpusError

RECIPE_FILE = RECIPE.finished
PAGE_FILE = "recipe.html"
_TEXT_FILE = "text.jsonl"
_TEST_SHARE = 0.2
# Some batches of the smallest model, whatever the language.
_LEAST_BYTES = 20_000
_OF_RUN = ("steps", "final_loss", "final_accuracy", "train_seconds", "curve", "model")


@dataclass(frozen=True)
class RecipeSettings:
    """What is given.

    Attributes:
        text: to pre-train on.
        ner: folder of files train, dev and test with an entity label a word, or None.
        classify: a table with texts and labels (a fifth is held out for the test), or a folder of train, dev and test.
        compare: pre-train without guidance as well.
        seeds: fine-tunings of each task.
        seed: of pre-training.
        overrides: fields of `RunConfig` that the user decides.
    """

    text: Text = dataclasses.field(default_factory=Text)
    ner: Path | None = None
    classify: Path | None = None
    compare: bool = False
    seeds: int = 5
    seed: int = 1
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@until_done()
def low_resource(
    settings: RecipeSettings, output: Path, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Clean a text, choose settings, pre-train, evaluate, report.

    Args:
        settings: what is given.
        output: the folder for `recipe.html` and `recipe.json`, the model and what the tasks gave.
        resume: go on where it was stopped.
        overwrite: replace what is there.
        quiet: print nothing.

    Returns:
        What was found, as in `recipe.json`.

    Raises:
        GuidanceError: bad input, before anything is written.
        Stopped: a signal asked to stop during pre-training.
    """
    folder = Output(output, RECIPE)
    lost = functools.partial(_lost, output, settings)
    uses = (*settings.text.files, settings.ner, settings.classify)
    state = folder.claim(resume=resume, overwrite=overwrite, other=lost, uses=uses)
    if resume and state is State.NOTHING and not settings.text.files:
        raise nothing_to_resume(output, "recipe")
    console = Console(quiet=quiet, markup=False)
    console.print("looking at the text and the tasks", highlight=False)
    with tempfile.TemporaryDirectory() as aside:
        tasks = _tasks(settings, Path(aside))
        read = {name: read_examples(get_task(name), files, repair=True) for name, files in tasks.items()}
        split = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(aside).iterdir())}
    held_out = [text for data in read.values() for text in _evaluated(data)]
    kept, facts = clean(settings.text.read(), held_out)
    _require_enough(settings.text.name, facts)
    choices = _chosen(facts, settings.overrides)
    # The rule's vocabulary is a bound: a text of few words supports fewer tokens.
    flags = {c.name: c.value for c in choices if c.name != "vocab_size" or "vocab_size" in settings.overrides}
    flags |= {"corpus": [str(output / _TEXT_FILE)], "seed": settings.seed}
    configs = {"guided": make_config(flags)}
    if not configs["guided"].heads:
        raise ConfigError("the recipe needs heads to guide; with --compare it pre-trains without as well")
    if settings.compare:
        configs["unguided"] = make_config(flags | {"heads": ""})
    check_apart(output, [str(file) for file in settings.text.files])
    for arm, config in configs.items():
        check_settings(config, RunFolder(output / arm))
    text = "".join(json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in kept)
    files = {_TEXT_FILE: text} | {f"classify-{name}": rows for name, rows in split.items()}
    state = folder.claim(resume=resume, overwrite=overwrite, other=lambda: lost() or _changed(output, files))
    if state is State.NOTHING:
        folder.clear()
        output.mkdir(parents=True, exist_ok=True)
        for name, lines in files.items():
            results.write_text(output / name, lines)
    if split:
        tasks["classify"] = {file.stem.rpartition("-")[2]: file for file in sorted(output.glob("classify-*.jsonl"))}
    _report_text(console, facts, choices)
    how = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    runs = {arm: pretrain(config, output / arm, **how) for arm, config in configs.items()}
    found = {name: _evaluate(name, of_task, settings, output, **how) for name, of_task in tasks.items()}
    content = {
        **results.header("recipe"),
        "recipe": "low-resource",
        "corpus": settings.text.name,
        "text": dataclasses.asdict(facts),
        "warnings": facts.warnings,
        "choices": [dataclasses.asdict(choice) for choice in choices],
        "runs": {arm: {name: run[name] for name in _OF_RUN} for arm, run in runs.items()},
        "tasks": found,
    }
    folder.json(RECIPE_FILE, content)
    write_recipe_page(content, output / PAGE_FILE)
    console.print(f"read {output / PAGE_FILE}; the model: {output / 'guided' / 'model'}", highlight=False)
    return content


def _lost(output: Path, settings: RecipeSettings) -> str | None:
    """Results there of tasks, or of a run, that this recipe does not have."""
    try:
        there = json.loads((output / RECIPE_FILE).read_text(encoding="utf-8"))
        has = {"ner": "ner" in there["tasks"], "classify": "classify" in there["tasks"]}
        has |= {"compare": "unguided" in there["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    lost = " and ".join(f"--{flag}" for flag, is_there in has.items() if is_there and not getattr(settings, flag))
    return f"results of {lost}, which would be lost; give that too" if lost else None


def _changed(output: Path, files: Mapping[str, str]) -> str | None:
    """A cleaned text, or split tables, there that are not those of this recipe."""
    there = {name: (output / name).read_text(encoding="utf-8") for name in files if (output / name).is_file()}
    return None if there == files else "a recipe whose text or tasks are not those given"


def _require_enough(name: str, facts: TextFacts) -> None:
    if not facts.documents:
        raise CorpusError(
            f"{name}: nothing is left without the {facts.held_out_found:,} sentences of dev and test that stand in it; "
            "give more text"
        )
    if facts.bytes < _LEAST_BYTES:
        raise CorpusError(
            f"{name}: {facts.bytes:,} bytes without what repeats, too little to learn from; {_LEAST_BYTES:,} are the "
            "least, some megabytes a good start"
        )


def _tasks(settings: RecipeSettings, aside: Path) -> dict[str, dict[str, Path]]:
    """The files of each task; those of a single table are written aside."""
    tasks = {}
    if settings.ner is not None:
        tasks["ner"] = find_files(get_task("ner"), {}, settings.ner)
    if settings.classify is not None:
        tasks["classify"] = (
            find_files(get_task("classify"), {}, settings.classify)
            if settings.classify.is_dir()
            else _split(settings.classify, aside)
        )
    for name, files in tasks.items():
        if "test" not in files:
            raise ConfigError(f"--{name} {getattr(settings, name)}: no file called test there")
    return tasks


def _split(table: Path, folder: Path) -> dict[str, Path]:
    """A table as a file to train on and one for the test; alike texts are in the same."""
    data = read_examples(get_task("classify"), {"train": table, "dev": table})
    try:
        _, out = hold_out(data.splits["train"], _TEST_SHARE)
    except ConfigError as error:
        raise CorpusError(
            f"{table}: too few texts of each label to keep some for a test; give more, or a folder of train and test"
        ) from error
    places = {example.place for example in out}
    files = {}
    for split in ("test", "train"):
        rows = [row.values for row in read_table(table) if (row.place in places) == (split == "test")]
        files[split] = folder / f"{split}.jsonl"
        results.write_text(
            files[split], "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        )
    return files


def _evaluated(data: Data) -> list[str]:
    """The texts that are chosen or scored on."""
    joint = " " if data.task.kind == "tokens" else "\n"
    return [
        text
        for split in ("dev", "test")
        for example in data.splits.get(split, ())
        for text in joint.join(example.texts).split("\n")
    ]


def _chosen(facts: TextFacts, overrides: Mapping[str, Any]) -> list[Choice]:
    """The rules' choices; what the user decides stands in their place or after them."""
    choices = {choice.name: choice for choice in choose(facts, overrides.get("preset"))}
    for name, value in overrides.items():
        choices[name] = Choice(name, value, "as you asked")
    return [*choices.values()]


def _evaluate(
    name: str, files: dict[str, Path], settings: RecipeSettings, output: Path, *, resume: bool, **how: bool
) -> dict[str, Any]:
    """The scores of a task: of guided, and of unguided if there is one."""
    of_task = FinetuneSettings(name, files, repair=True, seeds=settings.seeds)
    target = output / name
    if settings.compare:
        models = [str(output / arm) for arm in ("unguided", "guided")]
        compared = downstream(models, of_task, target, resume=resume, **how)
        scores: dict[str, Any] = json.loads((target / "guided" / "finetune.json").read_text(encoding="utf-8"))
        (gap,) = compared["differences"]
        combined = next(iter(compared["combined_differences"]), None)
        return scores | {"folder": f"{name}/guided", "difference": gap, "combined_difference": combined}
    scores = finetune(str(output / "guided"), of_task, target, resume=resume, **how)
    return scores | {"folder": name, "difference": None, "combined_difference": None}


def _report_text(console: Console, facts: TextFacts, choices: Sequence[Choice]) -> None:
    console.print(
        f"{facts.documents:,} documents, {facts.words:,} words, {facts.bytes / 1e6:.1f} MB; "
        f"{', '.join(facts.scripts)} script, language {', '.join(facts.languages) or 'not known'}",
        highlight=False,
    )
    for warning in facts.warnings:
        console.print(f"note: {warning}", highlight=False)
    table = Table(title="Chosen")
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    for choice in choices:
        table.add_row(choice.name, str(choice.value), choice.why)
    console.print(table)
