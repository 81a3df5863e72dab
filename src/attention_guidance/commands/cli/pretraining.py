"""The commands that train: `pretrain`, `compare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import Assign, Given, add_command, fail, positive, steps_or_share
from attention_guidance.commands.objectives import OTHER_THAN_TEXT
from attention_guidance.errors import ConfigError

_PRETRAIN = """\
Pre-train a masked language model on text, with attention heads guided toward simple patterns.

  attention-guidance pretrain --output runs/bible                       the text that comes with the package
  attention-guidance pretrain news.txt.gz wiki/ -o runs/sw --preset mini
  attention-guidance pretrain -o runs/sw --resume                       go on after a stop, with its settings
  attention-guidance pretrain --config runs/sw/run.yaml -o runs/sw2 --seed 2

The model lands in OUTPUT/model and loads with plain transformers; every figure is in OUTPUT/results.json.
"""
_COMPARE = """\
Train twice, with and without guidance, on the same data, order and initial weights, and compare.

  attention-guidance compare --output runs/compare --preset tiny
  attention-guidance compare corpus.txt -o runs/compare --seeds 3
  attention-guidance compare corpus.txt -o runs/compare --seeds 5 --resume   two more seeds
  attention-guidance compare corpus.txt -o runs/compare --downstream ner --task-data ner/

Writes OUTPUT/compare.json (every figure) and OUTPUT/compare.html (curves and attention maps). With --downstream all
runs are fine-tuned on a task afterwards and compared there, in OUTPUT/downstream-TASK; see `downstream`.
"""


def add_commands(commands: Any) -> None:
    """Add the commands that train."""
    _add_run_arguments(add_command(commands, "pretrain", "from raw text to a guided encoder", _PRETRAIN, _pretrain))
    compare = add_command(commands, "compare", "guided and unguided side by side", _COMPARE, _compare)
    _add_run_arguments(compare)
    compare.add_argument("--seeds", type=positive, metavar="N", help="pairs of runs, from --seed on (1)")
    add = compare.add_argument_group("downstream").add_argument
    add("--downstream", metavar="TASK", help="fine-tune on this task too: ner, classify, cola, ...; see finetune")
    add("--task-data", type=Path, metavar="DIR", help="its files, called train, dev or valid, and test")
    add("--finetune-seeds", type=positive, metavar="N", help="fine-tunings of each run (5)")
    add("--columns", nargs="+", metavar="NAME", help="of its tables: texts first, then label or labels; see finetune")
    add("--positive-label", metavar="NAME", help="of two labels the one that F1 is of; see finetune")
    add("--repair", action="store_true", default=None, help="let an I- that continues nothing begin an entity")


def _pretrain(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.pretraining.pretrain import pretrain

    return _train(arguments, pretrain)


def _compare(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.pretraining.compare import compare

    n_seeds = arguments.pop("seeds")
    settings = _downstream_settings(arguments)

    def train(config: Any, output: Path, **how: Any) -> None:
        if settings is not None and config.objective in OTHER_THAN_TEXT:
            raise ConfigError(f"--downstream {settings.task} is of text, and objective={config.objective!r} is not")
        resumed = how["resume"] and n_seeds is None
        seeds = None if resumed else range(config.seed, config.seed + (n_seeds or 1))
        compare(config, output, seeds=seeds, **how)
        if settings is not None:
            from attention_guidance.commands.finetuning.downstream import downstream

            downstream([str(output)], settings, output / f"downstream-{settings.task}", **how)

    return _train(arguments, train)


def _downstream_settings(arguments: dict[str, Any]) -> Any:
    """How a comparison is fine-tuned, None if it is not; its files are checked before hours of training."""
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
        raise ConfigError(f"--downstream {task} needs --task-data, a folder of files called train, dev and test")
    files = find_files(get_task(task), {}, folder)
    settings = FinetuneSettings(
        task, files, **given | {"repair": bool(given["repair"])}, seeds=n_seeds or FinetuneSettings.seeds
    )
    read_examples(
        get_task(task), files, columns=settings.columns, repair=settings.repair, positive=settings.positive_label
    )
    return settings


def _train(arguments: dict[str, Any], train: Any) -> int:
    """Turn the arguments into a configuration and train."""
    from attention_guidance.commands.pretraining.pretrain import Stopped
    from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, make_config
    from attention_guidance.commands.workspace import COMPARISON, RUN, State, Workspace, nothing_to_resume

    output, config_file = arguments.pop("output"), arguments.pop("config")
    how = {name: arguments.pop(name) for name in ("resume", "overwrite", "quiet")}
    given = config_file is not None or any(value is not None for value in arguments.values())
    states = {Workspace(output, kind).state for kind in (RUN, COMPARISON)}
    # Of a run that never made a step, or that others may replace, nothing is kept that is given anew.
    held = not how["overwrite"] and not states.isdisjoint((State.BEGUN, State.FINISHED))
    goes_on = how["resume"] and (output / CONFIG_FILE).exists() and (held or not given)
    config = make_config(arguments, config_file, output / CONFIG_FILE if goes_on else None)
    if how["resume"] and not goes_on and not config.corpus and config.dataset is None:
        # Defaults would train on the Bible in a mistyped folder, or for a run that was stopped before it had one.
        raise nothing_to_resume(output, "run")
    try:
        train(config, output, **how)
    except Stopped as stopped:
        return fail(stopped, 128 + stopped.signal)
    return 0


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that every training command shares: the fields of `RunConfig`, and where and how to run."""
    add = parser.add_argument
    add("corpus", nargs="*", metavar="CORPUS", action=Given,
        help="text files (plain, .jsonl, .csv, .tsv, .parquet; .gz, .bz2, .xz, .zst), folders, - (standard input); "
        "images or recordings for the objectives mim and speech; default: the World English Bible")  # fmt: skip
    add("-o", "--output", type=Path, required=True, help="folder to write to; nothing in it is overwritten")
    add("--config", metavar="FILE", help="YAML file of settings, such as a run's run.yaml; flags win over it")
    add("--resume", action="store_true",
        help="go on from the last good checkpoint in --output, if there is one, with the settings of that run; what "
        "leaves its curve as it is may be given anew: a corpus that moved, --accumulation, --report-to, "
        "--keep-checkpoints, workers")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="print nothing but errors")
    add("--seed", type=int, metavar="N", help="of weights, order, masks and dropout (1)")
    add("--preset", metavar="NAME", help="tiny, mini, small, base, roberta-4, -8, -12, -16, attention-24 or -48 (mini)")
    _add_text_arguments(parser.add_argument_group("text"))
    _add_objective_arguments(parser.add_argument_group("objectives other than masked tokens"))
    _add_training_arguments(parser.add_argument_group("model and training (defaults: the preset's)"))
    _add_guidance_arguments(parser.add_argument_group("guidance"))


def _add_text_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset", metavar="NAME", help="a data set of the Hugging Face hub instead of files: wikimedia/wikipedia")
    add("--dataset-config", metavar="NAME", help="which of its configurations: 20231101.sw")
    add("--dataset-split", metavar="NAME", help="which of its splits (train)")
    add("--validation", nargs="+", metavar="FILE", help="validate on these (else on a part held out of the corpus)")
    add("--validation-share", type=float, metavar="X", help="share of the text to hold out (0.02)")
    add("--max-validation-tokens", type=int, metavar="N", help="validate on at most this many (32768)")
    add("--text-field", metavar="NAME", help="field of .jsonl, column of a table that holds the text (text)")
    add("--documents", help="a document of a plain file is a: line, blank (-line separated part), file (auto)")
    add("--errors", help="on invalid UTF-8: strict stops, replace goes on (strict)")
    add(
        "--tokenizer",
        metavar="PATH",
        help="folder of a tokenizer or run, or a name on the hub (else one is trained)",
    )
    add("--vocab-size", type=int, metavar="N", help="of the tokenizer to train (by the size of the text)")
    add("--pad-vocab", type=int, metavar="N", help="make the vocabulary of the model a multiple of this, such as 64")
    add("--line-by-line", action="store_true", default=None, help="a document a sequence, padded, not packed blocks")
    add("--block-size", type=int, metavar="N", help="tokens in a sequence")
    add("--objective", metavar="NAME",
        help="what is learnt: mlm (single masked tokens), whole-word, span (of words), rtd (which tokens a generator "
        "replaced), mlm+nsp, mlm+sop (and whether two pieces follow, or are in order), mim (images), speech; or a "
        "function of yours, FILE.py:NAME (mlm)")  # fmt: skip
    add("--masking-rate", type=float, metavar="X", help="share of the tokens, patches or frames to hide (0.15)")
    add("--final-masking-rate", type=float, metavar="X", help="what it goes to, linearly over the run (the same)")


def _add_objective_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--generator-share", type=float, metavar="X", help="rtd: width of the generator, of the model's (0.5)")
    add("--guided-part", help="rtd: which encoder is guided: discriminator, generator or both (discriminator)")
    add("--image-size", type=int, metavar="N", help="mim: side of the images in pixels (64)")
    add("--patch-size", type=int, metavar="N", help="mim: side of the patches in pixels (8)")


def _add_training_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--arch",
        metavar="NAME",
        help="kind of the model, as transformers calls it: bert, modernbert, ..., or attention-only (roberta)",
    )
    add("--arch-config", metavar="FILE", help="a config.json of transformers that decides the model")
    add("--init-from", metavar="MODEL", help="go on with a trained model: folder, run, or name on the hub")
    add("--layers", type=int, metavar="N", help="encoder layers")
    add("--hidden", type=int, metavar="N", help="width of the hidden states")
    add("--attention-heads", type=int, metavar="N", help="heads of each layer")
    add("--feed-forward", type=int, metavar="N", help="width of the feed-forward blocks")
    add("--dropout", type=float, metavar="X", help="of hidden states and attention")
    add("--max-steps", type=int, metavar="N", help="optimisation steps")
    add("--max-time", metavar="TIME", help="train this long instead, e.g. 3h or 90m; all schedules go by the clock")
    add("--batch-size", type=int, metavar="N", help="sequences in an optimisation step")
    add("--accumulation", type=int, metavar="N", help="passes that make up a step, to save memory (1)")
    add("--learning-rate", type=float, metavar="X", help="peak of the learning rate")
    add("--warmup-share", type=float, metavar="X", help="share of the steps in which it rises (0.06)")
    add("--weight-decay", type=float, metavar="X", help="AdamW's (0.01)")
    add("--max-grad-norm", type=float, metavar="X", help="clip gradients to this norm; 0 does not (1.0)")
    add("--precision", help="auto, bf16, fp16 or fp32 (auto: bf16 where the machine computes in it)")
    add("--shard", action="store_true", default=None,
        help="several processes: lay parameters, gradients and optimizer out in shares over them (FSDP2)")  # fmt: skip
    add("--eval-every", type=int, metavar="N", help="steps between validations (a thirtieth of the run)")
    add("--save-every", type=int, metavar="N", help="steps between checkpoints (a tenth of the run, at most 1000)")
    add("--keep-checkpoints", type=int, metavar="N", help="newest checkpoints to keep (2)")
    add("--report-to", metavar="NAMES", help="tensorboard, wandb, ... or none (tensorboard)")
    add("--set", dest="arguments", action=Assign, metavar="NAME=VALUE",
        help="any other field of transformers' TrainingArguments; may be repeated")  # fmt: skip


def _add_guidance_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--heads", metavar="SPEC",
        help="which heads follow which pattern: 'next:1 previous:1 first:0.25' (the default), by count or share in "
        "every layer; '0-3: next:1; 4-: first@2,3' by layer and number; '' for no guidance. Patterns: next, previous, "
        "first, same, delimiter, period, offset:K, a --token-class, unions a|b")  # fmt: skip
    add("--weight", type=float, metavar="X", help="pull on each guided head (0.1; rtd: 5)")
    add("--loss", help="squared_error or log_mass (squared_error)")
    add("--normalization", help="query: weight is per head; elementwise: the authors' scale (query)")
    add("--backend", metavar="NAME",
        help="what computes the guided heads: auto, reference, blocked or triton (experimental) (auto)")  # fmt: skip
    add("--schedule", help="of the weight: constant, linear, hold-then-linear or cosine (hold-then-linear)")
    add("--hold", type=steps_or_share, metavar="X", help="when it begins to fall: steps, or a share of the run (0.2)")
    add("--end", type=steps_or_share, metavar="X", help="when it is 0: steps, or a share of the run (1.0)")
    add("--token-class", dest="token_classes", action=Assign, metavar="NAME=TOKENS",
        help="a class of tokens for --heads, its tokens separated by spaces: comma=', ;'; may be repeated")  # fmt: skip
