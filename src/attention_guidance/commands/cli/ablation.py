"""The command `ablate`."""

from __future__ import annotations

import argparse
from typing import Any

from attention_guidance.commands.cli.arguments import (
    READING,
    add_command,
    add_output,
    add_reading,
    check_idle,
    given,
    positive,
    seed,
    text_of,
)

_ABLATE = """\
Which heads does a masked language model need? Removes each head alone and measures how much the loss rises on a sample
of text, with an interval, beside the pattern that the head follows or was guided toward. Or how many more minimal pairs
are wrong.

  attention-guidance ablate runs/sw news.txt -o looks/sw-heads            # a run of pretrain; heads put out zeros
  attention-guidance ablate runs/sw -o looks/sw-heads --to mean           # their mean output, on the embedded text
  attention-guidance ablate runs/sw -o looks/sw-heads --to pattern        # would the fixed pattern of each head do?
  attention-guidance ablate bert-base-uncased -o looks/bert --to next     # would attention to the next token do?
  attention-guidance ablate runs/sw -o looks/sw-heads --greedy            # how many heads can go?
  attention-guidance ablate runs/en data/blimp -o looks/blimp-heads --task minimal-pairs --pairs 1000

A difference above 0 is what the head is worth, in nats per predicted token; an interval that includes 0 shows nothing.
15 % of the tokens are masked, the same ones for all heads. --greedy removes the least needed head, then the next, up to
all; for n heads this takes n / 2 times as long, so give fewer --tokens or heads (--greedy 8). It chooses and measures
on the same text, which flatters the curve a little.

Writes OUTPUT/ablate.json and ablate.csv (a row for each head), and figures.
"""


def add_commands(commands: Any) -> None:
    """Add the command."""
    _add_ablate(add_command(commands, "ablate", "measure the loss without each head", _ABLATE, _ablate))


def _add_ablate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of a masked language model or of a run, or a name on the hub")
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add_output(parser)
    add(
        "--task",
        default="loss",
        help="what heads are judged by: loss, at masked tokens; or minimal-pairs, the share of pairs that are wrong; "
        "CORPUS is then the file or folder of pairs, see probe (loss)",
    )
    add(
        "--to",
        default="zero",
        metavar="WHAT",
        help="what is in place of a removed head's output: zero; mean, its mean over all tokens; pattern, attention to "
        "its own pattern (guided toward, or the closest); or one pattern for all heads: next, first, offset:-2 (zero)",
    )
    add("--tokens", type=positive, metavar="N", help="tokens of text, special ones included (20000)")
    add("--block-size", type=positive, metavar="N", help="tokens in a block (128)")
    add("--pairs", type=positive, metavar="N", help="pairs, for --task minimal-pairs (200)")
    add("--batch-size", type=positive, default=16, metavar="N", help="blocks in a forward pass (16)")
    add("--seed", type=seed, default=1, metavar="N", help="seed of the sample, the masks and the bootstrap (1)")
    add(
        "--greedy",
        nargs="?",
        type=positive,
        const=True,
        metavar="N",
        help="also remove heads one after another, the least needed first, up to N (all)",
    )
    add_reading(parser)


def _ablate(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.ablation.ablate import LOSS, PAIRS, AblationSettings, ablate_heads

    of_pairs = arguments["task"] == PAIRS
    idle = ("tokens", "block_size", *READING) if of_pairs else ("pairs",)
    check_idle(arguments, idle, f"--task {LOSS if of_pairs else PAIRS}")
    model, output, text = arguments.pop("model"), arguments.pop("output"), text_of(arguments)
    how = {name: arguments.pop(name) for name in ("overwrite", "quiet")}
    ablate_heads(model, text, output, AblationSettings(**given(arguments)), **how)
    return 0
