"""The commands that train: `pretrain`, `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import add_command, positive
from attention_guidance.commands.cli.flags import add_settings, flags_of
from attention_guidance.commands.cli.importing import importing
from attention_guidance.commands.objectives import OTHER_THAN_TEXT, is_own
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.commands.setting import settings_of
from attention_guidance.errors import ConfigError

_PRETRAIN = """\
Pre-train a masked language model on text, with attention heads guided toward simple patterns.

  attention-guidance pretrain --output runs/bible                       # on the text in the package
  attention-guidance pretrain news.txt.gz wiki/ -o runs/sw --preset mini
  attention-guidance pretrain -o runs/sw --resume                       # continue a stopped run
  attention-guidance pretrain --config runs/sw/run.yaml -o runs/sw2 --seed 2

The model is saved in OUTPUT/model and loads with plain transformers; all results are in OUTPUT/results.json.
"""
_COMPARE = """\
Train twice, with and without guidance, on the same data, order and initial weights, and compare.

  attention-guidance compare --output runs/compare --preset tiny
  attention-guidance compare corpus.txt -o runs/compare --seeds 3
  attention-guidance compare corpus.txt -o runs/compare --seeds 5 --resume   # add two seeds
  attention-guidance compare corpus.txt -o runs/compare --downstream ner --task-data ner/

Writes OUTPUT/compare.json (all results) and OUTPUT/compare.html (curves and attention maps). With --downstream, all
runs are then fine-tuned on a task and compared, in OUTPUT/downstream-TASK; see `downstream`.
"""

# Where results stay on this machine.
_ON_THIS_MACHINE = {"none", "tensorboard"}
# Trainer arguments that name other files of settings, or services.
_OTHER_FILES = (
    "accelerator_config",
    "deepspeed",
    "parallelism_config",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
)


def add_commands(commands: Any) -> None:
    """Add the commands that train."""
    pretrain = add_command(commands, "pretrain", "pre-train an encoder on text, with guidance", _PRETRAIN, _pretrain)
    _add_run_arguments(pretrain)
    _add_hub(pretrain)
    compare = add_command(commands, "compare", "pre-train with and without guidance, and compare", _COMPARE, _compare)
    _add_run_arguments(compare)
    compare.add_argument(
        "--seeds", type=positive, metavar="N", help="number of pairs of runs, with seeds from --seed on (1)"
    )
    add = compare.add_argument_group("downstream").add_argument
    add("--downstream", metavar="TASK", help="also fine-tune on this task: ner, classify, cola, ...; see finetune")
    add("--task-data", type=Path, metavar="DIR", help="folder of its files, named train, dev or valid, and test")
    add("--finetune-seeds", type=positive, metavar="N", help="fine-tuning seeds for each run (5)")
    add("--columns", nargs="+", metavar="NAME", help="columns of its tables: texts first, then labels; see finetune")
    add("--positive-label", metavar="NAME", help="for two labels: the label that F1 is computed for; see finetune")
    add("--repair", action="store_true", default=None, help="let an I- label without a preceding entity start one")


def _add_hub(parser: argparse.ArgumentParser) -> None:
    """Add the arguments about the Hugging Face hub, named as in TrainingArguments; run.yaml does not have them."""
    add = parser.add_argument_group("hub").add_argument
    add("--push-to-hub", action="store_true", help="push the saved model, its tokenizer and its card to the hub")
    add("--hub-model-id", metavar="ID", help="name of the repository, NAME or OWNER/NAME (the name of --output)")
    add("--hub-private-repo", action="store_true", default=None, help="a new repository is private")


def _pretrain(arguments: dict[str, Any]) -> int:
    with importing():
        from attention_guidance.commands.pretraining.pretrain import pretrain

    return _train(arguments, partial(pretrain, hub=_hub(arguments)))


def _hub(arguments: dict[str, Any]) -> Any:
    """Where on the hub the model goes, None without --push-to-hub."""
    from attention_guidance.commands.pretraining.saving.hub import Hub

    pushes = arguments.pop("push_to_hub")
    given = {name: arguments.pop(name) for name in ("hub_model_id", "hub_private_repo")}
    if pushes:
        return Hub(given["hub_model_id"] or arguments["output"].resolve().name, given["hub_private_repo"])
    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"`{name}` needs `push_to_hub`")
    return None


def _compare(arguments: dict[str, Any]) -> int:
    with importing():
        from attention_guidance.commands.pretraining.compare import compare

    n_seeds = arguments.pop("seeds")
    settings = _downstream_settings(arguments)

    def train(config: Any, output: Path, **how: Any) -> None:
        if settings is not None and config.objective in OTHER_THAN_TEXT:
            raise ConfigError(f"--downstream {settings.task} needs text, but objective={config.objective!r} has none")
        resumed = how["resume"] and n_seeds is None
        seeds = None if resumed else range(config.seed, config.seed + (n_seeds or 1))
        compare(config, output, seeds=seeds, **how)
        if settings is not None:
            from attention_guidance.commands.finetuning.downstream import downstream

            downstream([str(output)], settings, output / f"downstream-{settings.task}", **how)

    return _train(arguments, train)


def _downstream_settings(arguments: dict[str, Any]) -> Any:
    """The fine-tuning settings of a comparison, None without; the files are checked now, before hours of training."""
    task = arguments.pop("downstream")
    given = {
        name: arguments.pop(name) for name in ("task_data", "finetune_seeds", "columns", "positive_label", "repair")
    }
    if task is None:
        for name, value in given.items():
            if value is not None:
                raise ConfigError(f"--{name.replace('_', '-')} needs --downstream TASK")
        return None
    from attention_guidance.commands.finetuning.examples.reading import read_examples
    from attention_guidance.commands.finetuning.examples.splits import find_files
    from attention_guidance.commands.finetuning.examples.tasks import GLUE, get_task
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

    folder, n_seeds = given.pop("task_data"), given.pop("finetune_seeds")
    if folder is None and task not in GLUE:
        raise ConfigError(f"--downstream {task} needs --task-data, a folder of files named train, dev and test")
    files = find_files(get_task(task), {}, folder)
    settings = FinetuneSettings(
        task, files, **given | {"repair": bool(given["repair"])}, seeds=n_seeds or FinetuneSettings.seeds
    )
    read_examples(
        get_task(task), files, columns=settings.columns, repair=settings.repair, positive=settings.positive_label
    )
    return settings


def _only_by_flag(config: RunConfig, flags: dict[str, Any], trusts_objective: bool) -> Iterator[tuple[str, str, str]]:
    """What only a flag may choose and a file chose, since files may be someone else's.

    Yields:
        The name of the setting, the setting with its value, and the end of its error.
    """
    if is_own(config.objective) and flags["objective"] is None and not trusts_objective:
        yield (
            "objective",
            f"objective={config.objective!r}",
            "would run code that this command does not name; inspect the file, then give it as --objective, or add "
            "--trust-objective",
        )
    if flags["report_to"] is None and not {name.strip() for name in config.report_to.split(",")} <= _ON_THIS_MACHINE:
        yield (
            "report_to",
            f"report_to={config.report_to!r}",
            "would send results to a service that this command does not name; give it as --report-to, or give "
            "--report-to none",
        )
    for name in sorted(config.arguments.keys() - (flags["arguments"] or {}).keys()):
        if name in _OTHER_FILES and config.arguments[name] is not None:
            yield (
                "arguments",
                f"arguments['{name}']={config.arguments[name]!r}",
                f"would load other settings or send data to a service; give it as --set {name}=..., or take it out",
            )


def _train(arguments: dict[str, Any], train: Any) -> int:
    """Create the configuration from the arguments and train."""
    from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, make_config, read_yaml
    from attention_guidance.commands.workspace import COMPARISON, RUN, State, Workspace, nothing_to_resume

    output, config_file = arguments.pop("output"), arguments.pop("config")
    how = {name: arguments.pop(name) for name in ("resume", "overwrite", "quiet")}
    trusts_objective = arguments.pop("trust_objective")
    given = config_file is not None or any(value is not None for value in arguments.values())
    states = {Workspace(output, kind).state for kind in (RUN, COMPARISON)}
    # The settings of a run that has not completed a step, or may be replaced, are not combined with those given now.
    kept = not how["overwrite"] and not states.isdisjoint((State.BEGUN, State.FINISHED))
    continues = how["resume"] and (output / CONFIG_FILE).exists() and (kept or not given)
    config = make_config(arguments, config_file, output / CONFIG_FILE if continues else None)
    sources = [Path(file) for file in (config_file, output / CONFIG_FILE if continues else None) if file is not None]
    for name, what, hint in _only_by_flag(config, arguments, trusts_objective):
        source = next((file for file in sources if name in read_yaml(file)), None)
        raise ConfigError(f"{what} in {source} {hint}")
    if how["resume"] and not continues and not config.corpus and config.dataset is None:
        # The folder may be mistyped, or the run stopped too early: do not train on the default text instead.
        raise nothing_to_resume(output, "run")
    train(config, output, **how)
    return 0


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training commands share: the settings of a run, its output, and how to run it."""
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder to write to; its files are kept without --overwrite")
    add("--config", metavar="FILE", help="YAML file of settings, such as the run.yaml of a run; flags override it")
    flags, declared = flags_of(RunConfig), settings_of(RunConfig)
    free = ", ".join(flags[name] for name in declared if declared[name].free)
    add(
        "--resume",
        action="store_true",
        help="continue from the last good checkpoint in --output, if there is one, with the settings of that run; "
        f"only settings that do not affect its training curve may change: workers, {free}",
    )
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add(
        "--trust-objective",
        action="store_true",
        help="run the code of the FILE.py:NAME that --config or the resumed run names as objective",
    )
    add_settings(parser, RunConfig)
