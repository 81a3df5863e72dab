"""The commands that analyze trained models: `census`, `probe`, `skill`, `look`, `report`, and `reflexives`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import (
    Assign,
    add_command,
    add_output,
    add_reading,
    check_idle,
    given,
    positive,
    seed,
    text_of,
)
from attention_guidance.errors import ConfigError

# The task of `probe` that asks the model, not its heads.
_PAIRS = "minimal-pairs"

_CENSUS = """\
Which pattern does each head of a model follow? For every head and pattern, measured on a sample of text: the mean
attention to the pattern's targets (mass), the share of rows with their maximum there, the squared error that guidance
minimizes, and the entropy of the head, each with an interval.

  attention-guidance census runs/sw -o looks/sw                       # a run of pretrain, on the embedded text
  attention-guidance census bert-base-uncased news.txt -o looks/bert  # any encoder, on your text
  attention-guidance census runs/sw -o looks/steps --checkpoints      # all checkpoints of a run

Writes OUTPUT/census.json and census.csv (a row for each layer, head and pattern), and figures.
"""
_PROBE = """\
Do heads attend from a word to the word that it refers to or depends on, without being trained for it?

  attention-guidance probe MODEL sentences.txt --task reflexive -o looks/reflexive     # see: reflexives --help
  attention-guidance probe MODEL dev.conllu --task dependency -o looks/dependency      # Universal Dependencies
  attention-guidance probe MODEL gap-development.tsv --task gap -o looks/gap           # GAP
  attention-guidance probe MODEL conll-2012/dev --task coreference -o looks/coref      # CoNLL-2012, your licensed copy
  attention-guidance probe MODEL data/blimp --task minimal-pairs -o looks/blimp        # BLiMP

Since the best of many heads is partly best by chance, it is chosen on one half of the texts and evaluated on the other.
Writes OUTPUT/probe.json and probe.csv (accuracy of every head), and figures. minimal-pairs asks the whole model, not
its heads: which sentence of each pair has the higher pseudo-log-likelihood? It writes OUTPUT/minimal_pairs.json, a
table and figures.
"""
_SKILL = """\
Does the linguistic skill of heads correlate with the quality of the language model? Probes the checkpoints of runs, and
compares the accuracy of the best head and the mean over heads with the validation loss: rank correlation and interval.

  attention-guidance skill runs/guided runs/unguided --data sentences.txt --task reflexive -o looks/skill
  attention-guidance skill runs/guided runs/unguided --data data/blimp --task minimal-pairs -o looks/skill

minimal-pairs takes the accuracy of the whole model.
To keep enough checkpoints, use pretrain --keep-checkpoints. Writes OUTPUT/skill.json, skill.csv and a figure.
"""
_LOOK = """\
Show what every head of a model attends to in a sentence, or a pair: thumbnails of all heads, and for chosen ones the
map and the lines between words. Special tokens such as [MASK] may be written in the sentence.

  attention-guidance look runs/sw "The king saw himself." -o looks/king
  attention-guidance look bert-base-uncased "Is it?" "It is." --words --heads 0.1 2.3 -o looks/pair

Any model of transformers that returns attention maps can be looked at; of T5 and BART the encoder is. Writes
OUTPUT/look.html, look.svg, look.json and look.npz (the maps of all heads).
"""
_REPORT = """\
Write a self-contained page about runs: training curves, the patterns that heads follow at each checkpoint, attention
maps of every head on a sentence, and other results of the runs.

  attention-guidance report runs/guided runs/unguided -o looks/report
  attention-guidance report runs/guided -o looks/report --text news.txt --sentence "The cat sat on the mat."
  attention-guidance report runs/guided -o looks/report --include looks/dependency looks/skill

Writes OUTPUT/report.html, report.json, the figures as SVG and PNG, and their data as CSV.
"""
_REFLEXIVES = """\
Generate sentences with a reflexive and its antecedent, in the format of probe --task reflexive: the words, a tab, the
index of the reflexive, a tab, the indices of its antecedent.

  attention-guidance reflexives -o sentences --sentences 2000
  attention-guidance probe MODEL sentences/reflexives.txt --task reflexive -o looks/reflexive
"""


def add_commands(commands: Any) -> None:
    """Add the commands."""
    _add_census(add_command(commands, "census", "measure which pattern each head follows", _CENSUS, _census))
    _add_probe(add_command(commands, "probe", "test heads on antecedents and syntactic heads", _PROBE, _probe))
    _add_skill(add_command(commands, "skill", "compare probe accuracy with model quality", _SKILL, _skill))
    _add_look(add_command(commands, "look", "show what heads attend to in a sentence", _LOOK, _look))
    _add_report(add_command(commands, "report", "write a page of runs, heads and probes", _REPORT, _report))
    _add_reflexives(add_command(commands, "reflexives", "generate sentences for a probe", _REFLEXIVES, _reflexives))


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="folder of a model or of a run, or a name on the hub")


def _add_census(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    add = parser.add_argument
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add_output(parser)
    add("--seed", type=seed, default=1, metavar="N", help="seed of the sample (1)")
    add(
        "--checkpoints",
        dest="with_checkpoints",
        action="store_true",
        help="all checkpoints of a run, not the final model",
    )
    add(
        "--patterns",
        nargs="+",
        default=(),
        metavar="NAME",
        help="patterns to measure (next previous same first delimiter period, if the tokenizer has their tokens); also "
        "offset:K, a --token-class, unions a|b",
    )
    add(
        "--token-class",
        dest="token_classes",
        action=Assign,
        metavar="NAME=TOKENS",
        help="a class of tokens for --patterns, its tokens separated by spaces; may be repeated",
    )
    add("--sequences", type=positive, default=256, metavar="N", help="maximum number of blocks of text (256)")
    add("--block-size", type=positive, metavar="N", help="tokens in a block (128)")
    add("--batch-size", type=positive, default=8, metavar="N", help="blocks in a forward pass (8)")
    add("--threshold", type=float, default=0.5, metavar="X", help="minimum mass for a head to follow a pattern (0.5)")
    add("--similarity-rows", type=int, default=256, metavar="N", help="rows for comparing heads; 0 disables it (256)")
    add_reading(parser)


def _add_questions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", required=True, help="reflexive, coreference, gap, dependency or minimal-pairs")
    add(
        "--protocol",
        help="words: attention to a word is the sum over its tokens, attention from it the mean; authors: as in the "
        "paper's script for reflexives, only sentences whose words are one token each (words)",
    )
    add(
        "--distractors",
        nargs="?",
        const=True,
        type=Path,
        metavar="FILE",
        help="put another sentence before each reflexive sentence, from FILE or built in",
    )
    add("--seed", type=seed, metavar="N", help="seed of halves, bootstrap and distractors (1)")
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="texts in a forward pass (16); minimal-pairs: masked sentences (as many as have 4,096 tokens)",
    )


def _add_probe(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("data", type=Path, metavar="DATA", help="annotated file or folder")
    add_output(parser)
    _add_questions(parser)
    checkpoints = "score every checkpoint of a run, not its end (minimal-pairs)"
    parser.add_argument("--checkpoints", dest="with_checkpoints", action="store_true", help=checkpoints)
    parser.add_argument("--resamples", type=positive, metavar="N", help="bootstrap samples (1000)")


def _add_skill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs of pretrain, with their checkpoints")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="annotated file or folder")
    add_output(parser)
    _add_questions(parser)


def _add_look(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    add = parser.add_argument
    add("text", metavar="SENTENCE", help="the sentence")
    add("pair", nargs="?", metavar="SECOND", help="a second sentence")
    add_output(parser)
    heads = "layer.head, from 0, of each head to draw large (0.0)"
    add("--heads", type=_head, nargs="+", metavar="L.H", help=heads)
    add("--words", action="store_true", help="words, not tokens: attention to a word is the sum over its tokens")
    add("--hide-special", action="store_true", help="leave out added special tokens; rows are scaled to sum to 1")


def _head(text: str) -> tuple[int, int]:
    layer, dot, head = text.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} must be a layer and a head, such as 0.3")
    return int(layer), int(head)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs or models, or names on the hub")
    add_output(parser)
    add = parser.add_argument
    add(
        "--text",
        dest="files",
        nargs="+",
        default=(),
        metavar="FILE",
        help="text on which to measure heads (that of the first run, else the World English Bible)",
    )
    add(
        "--include",
        nargs="+",
        default=(),
        type=Path,
        metavar="PATH",
        help="results of probe, skill and finetune to show: their folders or files",
    )
    add(
        "--sentence",
        dest="sentences",
        action="append",
        default=[],
        metavar="TEXT",
        help="show attention on this sentence, up to 512 tokens; may be repeated (the first 160 characters of the "
        "first three documents)",
    )
    add("--sequences", type=positive, default=64, metavar="N", help="blocks of text for the census (64)")
    add("--seed", type=seed, default=1, metavar="N", help="seed of the sample (1)")
    add_reading(parser)


def _add_reflexives(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_output(parser)
    add("--sentences", type=positive, default=1000, metavar="N", help="number of sentences (1000)")
    add("--seed", type=seed, default=1, metavar="N", help="random seed (1)")
    add("--no-plural", dest="plural", action="store_false", help="only himself and herself")
    add("--no-relative-clauses", dest="relative_clauses", action="store_false", help="no 'who can smile'")
    add("--no-attractors", dest="attractors", action="store_false", help="no other noun phrase before the reflexive")


def _census(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.census import CensusSettings, census

    model, output, text = arguments.pop("model"), arguments.pop("output"), text_of(arguments)
    how = {name: arguments.pop(name) for name in ("overwrite", "quiet")}
    census(model, text, output, CensusSettings(**arguments), **how)
    return 0


def _probe(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.minimal_pairs import minimal_pairs
    from attention_guidance.commands.studies.probe import probe

    model, output = arguments.pop("model"), arguments.pop("output")
    with_checkpoints = arguments.pop("with_checkpoints")
    how = {name: arguments.pop(name) for name in ("overwrite", "quiet")}
    if arguments["task"] == _PAIRS:
        check_idle(arguments, ("resamples", "seed"), f"tasks about heads, not {_PAIRS}, which draws nothing")
        del arguments["resamples"]
        minimal_pairs(model, _questions(arguments), output, with_checkpoints=with_checkpoints, **how)
        return 0
    if with_checkpoints:
        raise ConfigError(f"--checkpoints is for --task {_PAIRS}; skill probes the heads of checkpoints")
    resampled = given({"resamples": arguments.pop("resamples")})
    probe(model, _questions(arguments), output, **resampled, **how)
    return 0


def _questions(arguments: dict[str, Any]) -> Any:
    from attention_guidance.commands.studies.minimal_pairs import PairsProbe
    from attention_guidance.commands.studies.probe import Probe

    asked = given(arguments)
    if asked["task"] != _PAIRS:
        return Probe(**asked)
    if asked.keys() & {"distractors", "protocol"}:
        raise ConfigError(f"--distractors and --protocol are for --task reflexive, not {_PAIRS}")
    del asked["task"]
    return PairsProbe(**asked)


def _skill(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.skill import skill

    runs, output = arguments.pop("runs"), arguments.pop("output")
    how = {name: arguments.pop(name) for name in ("overwrite", "quiet")}
    skill(runs, _questions(arguments), output, **how)
    return 0


def _look(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.look import save_look

    save_look(
        arguments.pop("model"), arguments.pop("text"), arguments.pop("pair"), arguments.pop("output"), **arguments
    )
    return 0


def _report(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.report import report

    text = text_of(arguments, "--text")
    report(arguments.pop("runs"), arguments.pop("output"), text=text if text.files else None, **arguments)
    return 0


def _reflexives(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.texts.reflexives import reflexives

    reflexives(arguments.pop("output"), arguments.pop("sentences"), **arguments)
    return 0
