"""`attention-guidance recipe low-resource`: train and evaluate a model on a text and labelled data."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.downstream import downstream
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.finetune import finetune
from attention_guidance.commands.finetuning.fits.kept import check_unchanged, digests
from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.preparation.vocabulary import check_start
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.checks import check_apart, check_settings
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.pretraining.settings.run_config import seconds_of
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.recipe.budget import Budget, allot, kept_budget, measure
from attention_guidance.commands.recipe.clean import TextFacts, clean
from attention_guidance.commands.recipe.rules import Choice, chosen
from attention_guidance.commands.recipe.tasks import evaluated_texts, find_tasks
from attention_guidance.commands.report.recipe_page import write_recipe_page
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.sample import Text
from attention_guidance.commands.workspace import RECIPE, State, nothing_to_resume
from attention_guidance.errors import ConfigError, CorpusError

RECIPE_FILE = RECIPE.finished
PAGE_FILE = "recipe.html"
_TEXT_FILE, _TIME_FILE = "text.jsonl", "time.json"
# A few batches of the smallest model, in any language.
_MIN_BYTES = 20_000
_OF_RUN = ("steps", "final_loss", "final_accuracy", "train_seconds", "curve", "model")


@dataclass(frozen=True)
class RecipeSettings:
    """The input of the recipe.

    Attributes:
        text: Pre-training text.
        ner: Folder of the files train, dev and test, with an entity label for each word; or None.
        classify: Table of texts and labels, of which a fifth is held out as the test set, or folder of train, dev and
            test; or None.
        compare: Also pre-train without guidance.
        time: Time for everything, such as `2h`; None for as long as the rules want.
        seeds: Number of fine-tuning seeds for each task.
        seed: Seed of pre-training.
        overrides: Fields of `RunConfig` that replace the choices of the rules.
    """

    text: Text = dataclasses.field(default_factory=Text)
    ner: Path | None = None
    classify: Path | None = None
    compare: bool = False
    time: str | None = None
    seeds: int = 5
    seed: int = 1
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@until_done()
def low_resource(
    settings: RecipeSettings, output: Path, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Clean a text, choose settings, pre-train, evaluate, report.

    Args:
        settings: Input of the recipe.
        output: Folder for `recipe.html` and `recipe.json`, the models and the results of the tasks.
        resume: Continue with the recipe in the folder.
        overwrite: Replace the recipe in the folder.
        quiet: Print nothing.

    Returns:
        The results, as in `recipe.json`.

    Raises:
        GuidanceError: The input is invalid; nothing was written.
        Stopped: A signal stopped pre-training.
    """
    began = time.monotonic()
    _check_time(settings)
    folder = Output(output, RECIPE)
    lost = functools.partial(_lost_results, output, settings)
    uses = (*settings.text.files, settings.ner, settings.classify)
    state = folder.claim(resume=resume, overwrite=overwrite, other=lost, uses=uses)
    if resume and state is State.NOTHING and not settings.text.files:
        raise nothing_to_resume(output, "recipe")
    console = Console(quiet=quiet)
    console.print("reading the text and the tasks")
    with tempfile.TemporaryDirectory() as temporary:
        tasks = find_tasks({"ner": settings.ner, "classify": settings.classify}, Path(temporary))
        contents = {name: digests(files) for name, files in tasks.items()}
        read = {name: read_examples(get_task(name), files, repair=True) for name, files in tasks.items()}
        split = {file.name: file.read_text(encoding="utf-8") for file in sorted(Path(temporary).iterdir())}
        held_out = [text for data in read.values() for text in evaluated_texts(data)]
        kept, facts = clean(settings.text.read(), held_out)
        _require_enough(settings.text.name, facts)
        choices = chosen(facts, settings.overrides)
        configs = _configs(settings, choices, output)
        text = "".join(json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in kept)
        covers = f"{' and '.join(configs)}; {settings.seeds} seeds of {' and '.join(tasks) or 'no task'}"
        budget = kept_budget(output / _TIME_FILE, settings.time, covers) if resume else None
        if settings.time is not None and budget is None:
            console.print("measuring a few steps on this machine")
            trial = measure(configs["guided"], text, tasks, settings.seeds, Path(temporary))
            spent = time.monotonic() - began
            budget = allot(settings.time, *_steps(choices), trial, models=len(configs), covers=covers, spent=spent)
    choices, configs = _within(budget, choices, configs)
    files = {} if budget is None else {_TIME_FILE: json.dumps(budget, indent=2) + "\n"}
    files |= {_TEXT_FILE: text} | {f"classify-{name}": rows for name, rows in split.items()}
    state = folder.claim(resume=resume, overwrite=overwrite, other=lambda: lost() or _changed(output, files))
    if state is State.NOTHING:
        folder.clear()
        for name, lines in files.items():
            results.write_data(output / name, lines)
    if split:
        tasks["classify"] = {file.stem.rpartition("-")[2]: file for file in sorted(output.glob("classify-*.jsonl"))}
    _report_text(console, facts, choices)
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    runs = {arm: pretrain(config, output / arm, **how) for arm, config in configs.items()}
    found = {}
    for name, of_task in tasks.items():
        # The text was cleaned of the sentences of dev and test as they were.
        check_unchanged(of_task, contents[name])
        found[name] = _evaluate(name, of_task, settings, output, **how)
    content = {
        **results.header("recipe"),
        "recipe": "low-resource",
        "corpus": settings.text.name,
        "text": dataclasses.asdict(facts),
        "warnings": [
            *facts.warnings,
            *(f"{arm}: {said}" for arm, run in runs.items() for said in run.get("warnings", ())),
        ],
        "choices": [dataclasses.asdict(choice) for choice in choices],
        "time": budget,
        "runs": {arm: {name: run[name] for name in _OF_RUN} for arm, run in runs.items()},
        "tasks": found,
    }
    folder.json(RECIPE_FILE, content)
    write_recipe_page(content, output / PAGE_FILE)
    console.print(f"report {output / PAGE_FILE}   model {output / 'guided' / 'model'}")
    return content


def _lost_results(output: Path, settings: RecipeSettings) -> str | None:
    """Describe results in the folder that this recipe would not have, if any: of tasks or of the unguided run."""
    try:
        before = read_json(output / RECIPE_FILE, Any)
        has = {"ner": "ner" in before["tasks"], "classify": "classify" in before["tasks"]}
        has |= {"compare": "unguided" in before["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    lost = " and ".join(f"`{name}`" for name, was_given in has.items() if was_given and not getattr(settings, name))
    return f"results of {lost}, which would be lost; give that too" if lost else None


def _check_time(settings: RecipeSettings) -> None:
    if settings.time is None:
        return
    seconds_of(settings.time, "time")
    if (steps := settings.overrides.get("max_steps")) is not None:
        raise ConfigError(f"time={settings.time!r} and max_steps={steps} both decide the length; give one of them")


def _configs(settings: RecipeSettings, choices: Sequence[Choice], output: Path) -> dict[str, RunConfig]:
    """The settings of each pre-training, by its folder, checked before anything is written.

    Raises:
        GuidanceError: They cannot be used.
    """
    # The vocabulary size of the rules is a maximum: a text with few words supports fewer tokens.
    flags = {c.name: c.value for c in choices if c.name != "vocab_size" or "vocab_size" in settings.overrides}
    flags |= {"corpus": [str(output / _TEXT_FILE)], "seed": settings.seed}
    configs = {"guided": make_config(flags)}
    if not configs["guided"].heads:
        raise ConfigError("the recipe needs heads to guide; with `compare` it also pre-trains without guidance")
    if settings.compare:
        configs["unguided"] = make_config(flags | {"heads": ""})
    check_apart(output, [str(file) for file in settings.text.files])
    for arm, config in configs.items():
        check_settings(config, RunFolder(output / arm))
    check_start(configs["guided"])
    return configs


def _steps(choices: Sequence[Choice]) -> tuple[int, str]:
    """The chosen number of steps, and why."""
    (chosen,) = (choice for choice in choices if choice.name == "max_steps")
    return chosen.value, chosen.why


def _within(
    budget: Budget | None, choices: list[Choice], configs: dict[str, RunConfig]
) -> tuple[list[Choice], dict[str, RunConfig]]:
    """The choices and settings with the steps of a budget, if there is one."""
    if budget is None:
        return choices, configs
    steps = Choice("max_steps", budget["max_steps"], budget["why"])
    configs = {arm: dataclasses.replace(config, max_steps=steps.value) for arm, config in configs.items()}
    return [steps if choice.name == steps.name else choice for choice in choices], configs


def _changed(output: Path, files: Mapping[str, str]) -> str | None:
    """Describe the recipe in the folder if its cleaned text, split tables or time differ from those of this recipe."""
    names = {_TIME_FILE, *files}
    existing = {name: (output / name).read_text(encoding="utf-8") for name in names if (output / name).is_file()}
    if existing.pop(_TIME_FILE, None) != files.get(_TIME_FILE):
        return "a recipe with another `time`, or one for other models, tasks or seeds"
    others = {name: text for name, text in files.items() if name != _TIME_FILE}
    return None if existing == others else "a recipe with another text or other tasks"


def _require_enough(name: str, facts: TextFacts) -> None:
    if not facts.documents:
        raise CorpusError(
            f"{name}: no text remains after removing the {facts.held_out_found:,} sentences of dev and test in it; "
            "give more text"
        )
    if facts.bytes < _MIN_BYTES:
        raise CorpusError(
            f"{name}: {facts.bytes:,} bytes after removing duplicates, too little to train on; the minimum is "
            f"{_MIN_BYTES:,}, a few megabytes are a good start"
        )


def _evaluate(
    name: str, files: dict[str, Path], settings: RecipeSettings, output: Path, *, resume: bool, **how: bool
) -> dict[str, Any]:
    """Fine-tune on a task and return its scores: of the guided model, and of the unguided one if there is one."""
    of_task = FinetuneSettings(name, files, repair=True, seeds=settings.seeds)
    target = output / name
    if settings.compare:
        models = [str(output / arm) for arm in ("unguided", "guided")]
        compared = downstream(models, of_task, target, resume=resume, **how)
        scores: dict[str, Any] = read_json(target / "guided" / "finetune.json", dict[str, Any])
        (gap,) = compared["differences"]
        combined = next(iter(compared["combined_differences"]), None)
        return scores | {"folder": f"{name}/guided", "difference": gap, "combined_difference": combined}
    scores = finetune(str(output / "guided"), of_task, target, resume=resume, **how)
    return scores | {"folder": name, "difference": None, "combined_difference": None}


def _report_text(console: Console, facts: TextFacts, choices: Sequence[Choice]) -> None:
    console.print(
        f"{facts.documents:,} documents, {facts.words:,} words, {facts.bytes / 1e6:.1f} MB; "
        f"{', '.join(facts.scripts)} script, language {', '.join(facts.languages) or 'not known'}",
    )
    for warning in facts.warnings:
        console.print(f"note: {warning}")
    table = Table(title="Settings")
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    for choice in choices:
        table.add_row(choice.name, str(choice.value), choice.why)
    console.print(table)
