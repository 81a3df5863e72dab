"""The commands that fine-tune, and predict with what was fine-tuned: `finetune`, `downstream`, `predict`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import add_command, add_output, positive
from attention_guidance.commands.cli.flags import add_settings
from attention_guidance.commands.finetuning.settings import FinetuneSettings, FitSettings
from attention_guidance.commands.setting import settings_of

_FINETUNE = """\
Fine-tune an encoder on a labelled task with several seeds, and evaluate it. The learning rate and epoch are chosen on
the development set; the test set is evaluated once per seed.

  attention-guidance finetune runs/sw --task ner --train ner/train.txt --dev ner/dev.txt --test ner/test.txt -o ft/sw
  attention-guidance finetune runs/en --task cola --train cola/train.tsv --test cola/dev.tsv -o ft/cola
  attention-guidance finetune bert-base-uncased --task pair --train a.csv --dev b.csv --columns left right same -o ft/x

Tasks: classify (a text and its label), pair (two texts and their label), multilabel (labels as a list, separated by
| ; or , or a column of 0 and 1 for each label), regress, ner (a word and its label per line, blank lines between
sentences; also parts of speech; .conllu), and GLUE's cola sst2 rte wnli mnli qnli mrpc qqp stsb, with GLUE's metrics.
Tables are .tsv, .csv or .txt (with a header, or with --columns as numbers), .json, .jsonl or .parquet. Without files,
GLUE data are loaded from the hub; since the labels of its test sets are not public, its development set is the test
set. Rows without a gold label (empty, null, nan, -) are skipped and counted.
Writes OUTPUT/finetune.json, predictions, a figure of the confusion matrix, and OUTPUT/model (of the best seed on dev).
"""


_DOWNSTREAM = """\
Fine-tune several models with the same settings, and test whether they differ by more than chance: a joint bootstrap
over seeds and test examples gives an interval for the difference of each model to the first.

  attention-guidance downstream runs/unguided runs/guided --task ner --train ner/train.txt --dev ner/dev.txt \\
      --test ner/test.txt -o ft/both
  attention-guidance downstream runs/unguided runs/guided runs/other ... -o ft/both --resume   # continue a stopped run
  attention-guidance downstream runs/compare --task cola -o ft/cola    # both arms of a compare, with all its seeds
  attention-guidance downstream runs/unguided runs/guided ... --checkpoints 8   # scores during pre-training

All other arguments are those of finetune. Writes OUTPUT/downstream.json, and the output of finetune for each model to
a subfolder.
"""


_PREDICT = """\
Predict labels and scores for new texts with a model that finetune has written, or any other with a head.

  attention-guidance predict ft/sw news.txt -o news.jsonl             # a sentence a line; words are found in it
  attention-guidance predict ft/sw words.conll -o labelled.conll      # a word a line, blank line between sentences
  attention-guidance predict ft/en reviews.csv --columns review -o reviews.tsv
  cat news.txt | attention-guidance predict ft/sw - > news.jsonl      # JSON lines on standard output

Long sentences become windows, as in scoring. The name of OUTPUT decides the format: .jsonl, .tsv, .csv, and for labels
of words .conll or .txt.
"""


def add_commands(commands: Any) -> None:
    """Add the commands."""
    one = add_command(commands, "finetune", "fine-tune an encoder on a task, with several seeds", _FINETUNE, _finetune)
    one.add_argument("model", metavar="MODEL", help="folder of a model or of a run, or a name on the hub")
    _add_settings(one)
    several = add_command(
        commands, "downstream", "fine-tune several models and test for a difference", _DOWNSTREAM, _downstream
    )
    several.add_argument(
        "models", nargs="+", metavar="MODEL", help="as for finetune; others are compared with the first"
    )
    _add_settings(several)
    spread = "also evaluate N evenly spaced checkpoints of each run, and plot their scores by step (default: none)"
    several.add_argument("--checkpoints", dest="n_checkpoints", type=positive, default=0, metavar="N", help=spread)

    new = add_command(commands, "predict", "predict labels for new texts", _PREDICT, _predict)
    add = new.add_argument
    add("model", metavar="MODEL", help="output folder of finetune, a model's folder, or a name on the hub")
    add("files", nargs="+", metavar="INPUT", help="text, .csv, .tsv, .jsonl, .parquet, .conll; - for standard input")
    add("-o", "--output", default="-", metavar="FILE", help="file to write to (default: -, standard output)")
    add("-q", "--quiet", action="store_true", help="print nothing but predictions and errors")
    add("--words", action="store_true", help="INPUT has a word a line and a blank line between sentences")
    add("--columns", nargs="+", metavar="NAME", help="columns of the texts in tables; number of that of the words")
    add("--batch-size", type=positive, default=32, metavar="N", help="texts (or windows) in a batch (default: 32)")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add_output(parser)
    add = parser.add_argument
    add("--resume", action="store_true", help="continue, keeping finished fits and scores")
    add("--task", required=True, help="the task, as listed in finetune --help")
    add("--train", type=Path, metavar="FILE", help="training file")
    add("--dev", type=Path, metavar="FILE", help="development file (default: a tenth of the training examples)")
    add(
        "--test",
        type=Path,
        metavar="FILE",
        help="test file, evaluated once per seed (default: scores on dev)",
    )
    add("--mismatched", type=Path, metavar="FILE", help="mnli: second test file")
    add("--data", type=Path, metavar="DIR", help="folder of these files, named train, dev or valid, and test")
    add_settings(parser, FinetuneSettings)
    add_settings(parser, FitSettings)


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


def _predict(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.finetuning.prediction.predict import predict_files

    predict_files(arguments.pop("model"), arguments.pop("files"), arguments.pop("output"), **arguments)
    return 0


def _settings(arguments: dict[str, Any]) -> FinetuneSettings:
    from attention_guidance.commands.finetuning.examples.splits import SPLITS, find_files
    from attention_guidance.commands.finetuning.examples.tasks import get_task

    given = {split: file for split in SPLITS if (file := arguments.pop(split)) is not None}
    files = find_files(get_task(arguments["task"]), given, arguments.pop("data"))
    chosen = {name: value for name, value in arguments.items() if value is not None}
    fit = FitSettings(**{name: chosen.pop(name) for name in settings_of(FitSettings) if name in chosen})
    return FinetuneSettings(files=files, fit=fit, **chosen)
