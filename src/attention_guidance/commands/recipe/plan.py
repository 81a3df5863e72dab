"""Plan a recipe before anything is written: read the input, clean the text, choose the settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.commands.finetuning.fits.kept import digests
from attention_guidance.commands.pretraining.preparation.vocabulary import check_start
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.checks import check_apart, check_settings
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.recipe.budget import Budget
from attention_guidance.commands.recipe.clean import TextFacts, clean
from attention_guidance.commands.recipe.rules import Choice, chosen
from attention_guidance.commands.recipe.tasks import evaluated_texts, find_tasks
from attention_guidance.commands.studies.sample import Text
from attention_guidance.errors import ConfigError, CorpusError

TEXT_FILE = "text.jsonl"
# A few batches of the smallest model, in any language.
_MIN_BYTES = 20_000
_STEPS = "max_steps"


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


@dataclass(frozen=True)
class Plan:
    """What a recipe is going to do.

    Attributes:
        text: The cleaned text, as JSON lines.
        facts: What is known about it.
        choices: The chosen settings, and why.
        configs: The settings of each pre-training, by its folder.
        tasks: The files of each task, by split.
        contents: Digests of these files, by task.
        split: The tables that a table of texts and labels was split into, by file name.
        covers: What a time has to be enough for, in words.
    """

    text: str
    facts: TextFacts
    choices: list[Choice]
    configs: dict[str, RunConfig]
    tasks: dict[str, dict[str, Path]]
    contents: dict[str, dict[str, str]]
    split: dict[str, str]
    covers: str

    @property
    def steps(self) -> tuple[int, str]:
        """The chosen number of steps, and why."""
        (choice,) = (choice for choice in self.choices if choice.name == _STEPS)
        return choice.value, choice.why

    def within(self, budget: Budget | None) -> Plan:
        """The plan with the steps of a budget, if there is one."""
        if budget is None:
            return self
        steps = Choice(_STEPS, budget["max_steps"], budget["why"])
        return dataclasses.replace(
            self,
            choices=[steps if choice.name == _STEPS else choice for choice in self.choices],
            configs={arm: dataclasses.replace(config, max_steps=steps.value) for arm, config in self.configs.items()},
        )


def make_plan(settings: RecipeSettings, output: Path, temporary: Path) -> Plan:
    """Read the input and choose the settings; nothing is written but to a temporary folder.

    Args:
        settings: Input of the recipe.
        output: Folder that the recipe will write to.
        temporary: An empty folder, for the files of a table that is split.

    Raises:
        GuidanceError: The input is invalid.
    """
    tasks = find_tasks({"ner": settings.ner, "classify": settings.classify}, temporary)
    contents = {name: digests(files) for name, files in tasks.items()}
    read = {name: read_examples(get_task(name), files, repair=True) for name, files in tasks.items()}
    held_out = [text for data in read.values() for text in evaluated_texts(data)]
    kept, facts = clean(settings.text.read(), held_out)
    require_enough(settings.text.name, facts)
    choices = chosen(facts, settings.overrides)
    configs = _configs(settings, choices, output)
    return Plan(
        text="".join(json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in kept),
        facts=facts,
        choices=choices,
        configs=configs,
        tasks=tasks,
        contents=contents,
        split={file.name: file.read_text(encoding="utf-8") for file in sorted(temporary.iterdir())},
        covers=f"{' and '.join(configs)}; {settings.seeds} seeds of {' and '.join(tasks) or 'no task'}",
    )


def require_enough(name: str, facts: TextFacts) -> None:
    """Check that there is text to train on.

    Raises:
        CorpusError: There is too little.
    """
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


def _configs(settings: RecipeSettings, choices: list[Choice], output: Path) -> dict[str, RunConfig]:
    """The settings of each pre-training, by its folder, checked before anything is written.

    Raises:
        GuidanceError: They cannot be used.
    """
    # The vocabulary size of the rules is a maximum: a text with few words supports fewer tokens.
    flags = {c.name: c.value for c in choices if c.name != "vocab_size" or "vocab_size" in settings.overrides}
    flags |= {"corpus": [str(output / TEXT_FILE)], "seed": settings.seed}
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
