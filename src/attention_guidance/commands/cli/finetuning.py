"""The commands that fine-tune: `finetune`, `downstream`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import add_command, add_output, positive, seed
from attention_guidance.commands.text.lines import ERRORS

_FINETUNE = """\
Fine-tune an encoder on a labelled task over several seeds, and score it. Learning rate and epoch are chosen on the
development set; the test set is touched once a seed.

  attention-guidance finetune runs/sw --task ner --train ner/train.txt --dev ner/dev.txt --test ner/test.txt -o ft/sw
  attention-guidance finetune runs/en --task cola --train cola/train.tsv --test cola/dev.tsv -o ft/cola
  attention-guidance finetune bert-base-uncased --task pair --train a.csv --dev b.csv --columns left right same -o ft/x

Tasks: classify (a text and its label), pair, multilabel (labels in a list, with | ; or , between them, or 0 and 1 of
each label), regress, ner (a word and its label a line, blank line between sentences; parts of speech too; .conllu), and
GLUE's: cola sst2 rte wnli mnli qnli mrpc qqp stsb, with GLUE's own metric. Tables are .tsv, .csv or .txt (with a
header, or --columns in numbers), .json, .jsonl or .parquet. Without files GLUE's come from the hub; the labels of its
test sets are secret, so its development set is tested on. Rows without a gold label (empty, null, nan, -) are left out
and counted.
Writes OUTPUT/finetune.json, predictions, the picture of confusions, and OUTPUT/model (of the seed best on dev).
"""


_DOWNSTREAM = """\
Fine-tune several models alike, and say whether the difference between them is more than chance: a bootstrap over seeds
and test examples at once, with the interval of the difference to the first model.

  attention-guidance downstream runs/unguided runs/guided --task ner --train ner/train.txt --dev ner/dev.txt \\
      --test ner/test.txt -o ft/sw
  attention-guidance downstream runs/unguided runs/guided runs/other ... -o ft/sw --resume   go on after a stop
  attention-guidance downstream runs/compare --task cola -o ft/cola    both sides of a compare, over its seeds
  attention-guidance downstream runs/unguided runs/guided ... --checkpoints 8   the score over steps of pre-training

Everything else is as for finetune. Writes OUTPUT/downstream.json, and what finetune writes in a folder for each model.
"""


def add_commands(commands: Any) -> None:
    """Add the commands."""
    one = add_command(commands, "finetune", "a downstream score of any encoder, over seeds", _FINETUNE, _finetune)
    one.add_argument("model", metavar="MODEL", help="folder of a model or of a run, or a name on the hub")
    _add_settings(one)
    one.add_argument("--resume", action="store_true", help="go on with the fits and scores that are there already")
    several = add_command(commands, "downstream", "is one model better than another", _DOWNSTREAM, _downstream)
    several.add_argument("models", nargs="+", metavar="MODEL", help="as for finetune; the first is compared with")
    _add_settings(several)
    add = several.add_argument
    add("--checkpoints", dest="n_checkpoints", type=positive, default=0, metavar="N",
        help="score so many checkpoints of each run too, evenly spread, and draw them over steps (none)")  # fmt: skip
    add("--resume", action="store_true", help="go on with the fits and scores that are there already")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", required=True, help="see above")
    add("--train", type=Path, metavar="FILE", help="train on this")
    add("--dev", type=Path, metavar="FILE", help="choose on this (a tenth of the training examples)")
    add("--test", type=Path, metavar="FILE", help="score on this, once (without it scores are those on dev)")
    add("--data", type=Path, metavar="DIR", help="folder of these files, called train, dev or valid, and test")
    add("--columns", nargs="+", metavar="NAME",
        help="of the tables: texts first, then label or labels; numbers for ner, and without a header")  # fmt: skip
    add(
        "--positive-label", metavar="NAME", help="of two labels the one that F1 is of (1 of 0 and 1, yes of yes and no)"
    )
    add("--mismatched", type=Path, metavar="FILE", help="of mnli: score on this too")
    add("--repair", action="store_true", help="let an I- that continues nothing begin an entity, as conlleval does")
    add("--errors", choices=ERRORS, default="strict",
        help="strict refuses a malformed row or sentence, skip leaves it out and counts it (strict)")  # fmt: skip
    add_output(parser)
    add("--seeds", type=positive, default=5, metavar="N", help="how many fine-tunings are scored (5)")
    add("--seed", type=seed, default=1, metavar="N", help="the first of them (1)")
    add("--learning-rates", type=float, nargs="+", default=(), metavar="X",
        help="to choose from on dev (2e-4 5e-4 1e-3; 1e-5 3e-5 5e-5 for a width of 512 and more)")  # fmt: skip
    add("--epochs", type=positive, default=5, metavar="N", help="at most; the best on dev is taken (5)")
    add("--batch-size", type=positive, default=32, metavar="N", help="examples in a step (32)")
    add("--max-length", type=positive, metavar="N", help="tokens of an item (what the model takes, up to 512)")
    add("--warmup-share", type=float, default=0.1, metavar="X", help="share of the steps of rising rate (0.1)")
    add("--weight-decay", type=float, default=0.01, metavar="X", help="AdamW's (0.01)")
    add("--dropout", type=float, default=0.1, metavar="X", help="of hidden states and attention (0.1)")
    add("--precision", default="auto", help="auto, bf16, fp16 or fp32 (auto)")
    add("--no-baseline", dest="baseline", action="store_false", help="no model without pre-training beside it")
    add("--heads", default="", metavar="SPEC", help="guide these heads while fine-tuning, as in pretrain (none)")
    add("--weight", type=float, default=0.1, metavar="X", help="pull on each guided head (0.1)")


def _finetune(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.finetuning.finetune import finetune

    model, output = arguments.pop("model"), arguments.pop("output")
    how = {name: arguments.pop(name) for name in ("resume", "overwrite", "quiet")}
    finetune(model, _settings(arguments), output, **how)
    return 0


def _downstream(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.finetuning.downstream import downstream

    models, output = arguments.pop("models"), arguments.pop("output")
    how = {name: arguments.pop(name) for name in ("n_checkpoints", "resume", "overwrite", "quiet")}
    downstream(models, _settings(arguments), output, **how)
    return 0


def _settings(arguments: dict[str, Any]) -> Any:
    from attention_guidance.commands.finetuning.examples.splits import SPLITS, find_files
    from attention_guidance.commands.finetuning.examples.tasks import get_task
    from attention_guidance.commands.finetuning.settings import FinetuneSettings, FitSettings

    given = {split: file for split in SPLITS if (file := arguments.pop(split)) is not None}
    files = find_files(get_task(arguments["task"]), given, arguments.pop("data"))
    fit = FitSettings(
        **{
            name: arguments.pop(name)
            for name in (
                "epochs", "batch_size", "warmup_share", "weight_decay", "dropout", "precision", "heads", "weight",
            )
        }
    )  # fmt: skip
    return FinetuneSettings(files=files, fit=fit, **arguments)
