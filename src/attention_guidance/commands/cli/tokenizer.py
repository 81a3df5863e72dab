"""The commands for tokenizers: `tokenizer train`, `tokenizer inspect`."""

from __future__ import annotations

import argparse
from typing import Any

from attention_guidance.commands.cli.arguments import add_command, add_output, add_reading, positive, seed, text_of

_TOKENIZER = """\
Train tokenizers and measure how well they fit a language.

  attention-guidance tokenizer train news.txt -o tok --kinds bpe unigram --vocab-sizes 4096 8192
  attention-guidance tokenizer train news.txt -o tok --beside xlm-roberta-base     # compare with an existing one
  attention-guidance tokenizer inspect runs/sw/tokenizer xlm-roberta-base --text news.txt -o look
  attention-guidance pretrain news.txt --tokenizer tok/unigram-8192 -o runs/sw

Reports: tokens per word (fertility); the share of words that are one token, of unknown tokens, of characters except
white space that decoding does not return, of letters that are a single token, and of the vocabulary that the text does
not use; the longest tokens and the characters lost most often.
"""


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tokenizer",
        help="train tokenizers and measure how they fit a language",
        description=_TOKENIZER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    train = add_command(
        actions,
        "train",
        "train tokenizers, and compare them on held-out text",
        _TOKENIZER,
        _train,
    )
    add = train.add_argument
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add("--kinds", nargs="+", default=["bpe"], metavar="KIND", help="bpe (of bytes), wordpiece, unigram (bpe)")
    add(
        "--vocab-sizes",
        nargs="+",
        type=positive,
        default=[],
        metavar="N",
        help="vocabulary sizes (by the text size)",
    )
    add(
        "--beside",
        nargs="+",
        default=[],
        metavar="TOKENIZER",
        help="other tokenizers: folders, runs or names",
    )
    add("--max-length", type=positive, default=512, metavar="N", help="longest sequence in tokens (512)")
    add("--seed", type=seed, default=1, metavar="N", help="seed of the choice of held-out text, a tenth (1)")
    add_output(train)
    add_reading(train)
    inspect = add_command(actions, "inspect", "measure how well tokenizers fit a text", _TOKENIZER, _inspect)
    add = inspect.add_argument
    add("tokenizers", nargs="+", metavar="TOKENIZER", help="folders, runs, or names on the hub")
    add("--text", dest="files", nargs="+", default=[], metavar="FILE", help="text files, folders, - (the Bible)")
    add_output(inspect)
    add_reading(inspect)


def _train(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.texts.tokenizer import train_tokenizers

    arguments.pop("action")
    text, output = text_of(arguments), arguments.pop("output")
    train_tokenizers(text, output, **arguments)
    return 0


def _inspect(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.texts.tokenizer import inspect_tokenizers

    arguments.pop("action")
    text, output, tokenizers = text_of(arguments, "--text"), arguments.pop("output"), arguments.pop("tokenizers")
    inspect_tokenizers(tokenizers, text, output, **arguments)
    return 0
