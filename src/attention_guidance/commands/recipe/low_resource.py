"""`attention-guidance recipe low-resource`: train and evaluate a model on a text and labelled data."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.downstream import downstream
from attention_guidance.commands.finetuning.finetune import finetune
from attention_guidance.commands.finetuning.fits.kept import check_unchanged
from attention_guidance.commands.finetuning.settings import FinetuneSettings
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.run_config import seconds_of
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.reading.json_files import read_json
from attention_guidance.commands.recipe.budget import allot, kept_budget, measure
from attention_guidance.commands.recipe.plan import TEXT_FILE, Plan, RecipeSettings, make_plan
from attention_guidance.commands.report.recipe_page import write_recipe_page
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.workspace import RECIPE, State, nothing_to_resume
from attention_guidance.errors import ConfigError

RECIPE_FILE = RECIPE.finished
PAGE_FILE = "recipe.html"
_TIME_FILE = "time.json"
_OF_RUN = ("steps", "final_loss", "final_accuracy", "train_seconds", "curve", "model")


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
        plan = make_plan(settings, output, Path(temporary))
        budget = kept_budget(output / _TIME_FILE, settings.time, plan.covers) if resume else None
        if settings.time is not None and budget is None:
            console.print("measuring a few steps on this machine")
            trial = measure(plan.configs["guided"], plan.text, plan.tasks, settings.seeds, Path(temporary))
            spent = time.monotonic() - began
            budget = allot(settings.time, *plan.steps, trial, models=len(plan.configs), covers=plan.covers, spent=spent)
    plan = plan.within(budget)
    files = {} if budget is None else {_TIME_FILE: json.dumps(budget, indent=2) + "\n"}
    files |= {TEXT_FILE: plan.text} | {f"classify-{name}": rows for name, rows in plan.split.items()}
    state = folder.claim(resume=resume, overwrite=overwrite, other=lambda: lost() or _changed(output, files))
    if state is State.NOTHING:
        folder.clear()
        for name, lines in files.items():
            results.write_data(output / name, lines)
    split = {Path(name).stem: output / f"classify-{name}" for name in plan.split}
    tasks = plan.tasks | ({"classify": split} if split else {})
    _report_plan(console, plan)
    how: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    runs = {arm: pretrain(config, output / arm, **how) for arm, config in plan.configs.items()}
    found = {}
    for name, of_task in tasks.items():
        # The text was cleaned of the sentences of dev and test as they were.
        check_unchanged(of_task, plan.contents[name])
        found[name] = _evaluate(name, of_task, settings, output, **how)
    content = {
        **results.header("recipe"),
        "recipe": "low-resource",
        "corpus": settings.text.name,
        "text": dataclasses.asdict(plan.facts),
        "warnings": [
            *plan.facts.warnings,
            *(f"{arm}: {said}" for arm, run in runs.items() for said in run.get("warnings", ())),
        ],
        "choices": [dataclasses.asdict(choice) for choice in plan.choices],
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


def _changed(output: Path, files: Mapping[str, str]) -> str | None:
    """Describe the recipe in the folder if its cleaned text, split tables or time differ from those of this recipe."""
    names = {_TIME_FILE, *files}
    existing = {name: (output / name).read_text(encoding="utf-8") for name in names if (output / name).is_file()}
    if existing.pop(_TIME_FILE, None) != files.get(_TIME_FILE):
        return "a recipe with another `time`, or one for other models, tasks or seeds"
    others = {name: text for name, text in files.items() if name != _TIME_FILE}
    return None if existing == others else "a recipe with another text or other tasks"


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


def _report_plan(console: Console, plan: Plan) -> None:
    facts = plan.facts
    console.print(
        f"{facts.documents:,} documents, {facts.words:,} words, {facts.bytes / 1e6:.1f} MB; "
        f"{', '.join(facts.scripts)} script, language {', '.join(facts.languages) or 'not known'}",
    )
    for warning in facts.warnings:
        console.print(f"note: {warning}")
    table = Table(title="Settings")
    for heading in ("setting", "value", "why"):
        table.add_column(heading)
    for choice in plan.choices:
        table.add_row(choice.name, str(choice.value), choice.why)
    console.print(table)
