"""The command for tokenizers: `tokenizer train`, `tokenizer inspect`."""

from __future__ import annotations

import argparse
from typing import Any

from attention_guidance.commands.cli.arguments import TEXT, add_command, add_output, add_reading, positive, seed

_TOKENIZER = """\
Train tokenizers and see how well they fit a language.

  attention-guidance tokenizer train news.txt -o tok --kinds bpe unigram --vocab-sizes 4096 8192
  attention-guidance tokenizer train news.txt -o tok --beside xlm-roberta-base     next to one that there is
  attention-guidance tokenizer inspect runs/sw/tokenizer xlm-roberta-base --text news.txt -o look
  attention-guidance pretrain news.txt --tokenizer tok/unigram-8192 -o runs/sw

Told are: tokens a word (fertility), the share of words that are one token, of tokens that are unknown, of characters
that decoding does not give back (white space aside), of letters that are a token of their own, of the vocabulary that
the text does not use; the longest tokens, the characters that are lost most.
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
    train = add_command(actions, "train", "of every kind and size, compared on text held out", _TOKENIZER, _train)
    add = train.add_argument
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add("--kinds", nargs="+", default=["bpe"], metavar="KIND", help="bpe (of bytes), wordpiece, unigram (bpe)")
    add("--vocab-sizes", nargs="+", type=positive, default=[], metavar="N", help="tokens (by the size of the text)")
    add("--beside", nargs="+", default=[], metavar="TOKENIZER", help="folders, runs or names of others to look at too")
    add("--max-length", type=positive, default=512, metavar="N", help="longest sequence in tokens (512)")
    add("--seed", type=seed, default=1, metavar="N", help="of the tenth of the text that is held out (1)")
    add_output(train)
    add_reading(train)
    inspect = add_command(actions, "inspect", "how well tokenizers fit a text", _TOKENIZER, _inspect)
    add = inspect.add_argument
    add("tokenizers", nargs="+", metavar="TOKENIZER", help="folders, runs, or names on the hub")
    add("--text", dest="files", nargs="+", default=[], metavar="FILE", help="text files, folders, - (the Bible)")
    add_output(inspect)
    add_reading(inspect)


def _train(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.tokenizer import train_tokenizers

    text, output = _text(arguments), arguments.pop("output")
    train_tokenizers(text, output, **arguments)
    return 0


def _inspect(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.studies.tokenizer import inspect_tokenizers

    text, output, tokenizers = _text(arguments), arguments.pop("output"), arguments.pop("tokenizers")
    inspect_tokenizers(tokenizers, text, output, **arguments)
    return 0


def _text(arguments: dict[str, Any]) -> Any:
    from attention_guidance.commands.studies.sample import Text

    arguments.pop("action")
    return Text(**{name: arguments.pop(name) for name in TEXT})
