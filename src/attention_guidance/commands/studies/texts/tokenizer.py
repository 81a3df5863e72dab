"""`attention-guidance tokenizer`: train, inspect and compare tokenizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_guidance.commands import results
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.saving.checkpoints import write_whole
from attention_guidance.commands.pretraining.settings.architectures import tokenizer_folder
from attention_guidance.commands.printing import Console, Table
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.sample import Text
from attention_guidance.commands.text.holding_out import split_validation
from attention_guidance.commands.tokenization.byte_level import load_tokenizer, suggest_vocab_size
from attention_guidance.commands.tokenization.coverage import describe_characters, tokenizer_facts
from attention_guidance.commands.tokenization.kinds import train_kind
from attention_guidance.errors import ConfigError

TOKENIZERS_FILE = "tokenizers.json"
_HELD_OUT = 0.1
# About 2,000 tokens.
_FEW_LETTERS = 8000


@until_done()
def train_tokenizers(
    text: Text,
    output: Path,
    *,
    kinds: Sequence[str] = ("bpe",),
    vocab_sizes: Sequence[int] = (),
    beside: Sequence[str] = (),
    max_length: int = 512,
    seed: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train a tokenizer of every kind and size, and evaluate each on a held-out tenth of the text.

    Args:
        text: the text to train on.
        output: folder for `tokenizers.json` and a folder for each tokenizer, such as `bpe-4096`.
        kinds: any of `bpe`, `wordpiece`, `unigram`.
        vocab_sizes: vocabulary sizes (default: one that suits the size of the text).
        beside: folders or names of further tokenizers to evaluate.
        max_length: maximum sequence length in tokens.
        seed: seed for the choice of held-out text.
        overwrite: whether to replace existing files.
        quiet: whether to print nothing.

    Returns:
        The content of `tokenizers.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, TOKENIZERS_FILE, overwrite)
    console = Console(quiet=quiet)
    others = {name: load_tokenizer(tokenizer_folder(name)) for name in beside}
    split = split_validation(list(text.read()), share=_HELD_OUT, seed=seed)
    trained_on, held_out = ([document.text for document in part] for part in (split.train, split.validation))
    if (letters := sum(map(len, held_out))) < _FEW_LETTERS:
        console.print(f"note: {letters:,} characters are few to evaluate tokenizers; give more text")
    sizes = list(vocab_sizes) or [suggest_vocab_size(sum(len(t.encode()) for t in trained_on))]
    found = {}
    for kind in kinds:
        for size in sizes:
            name = f"{kind}-{size}"
            console.print(f"training {name} on {len(trained_on):,} documents")
            tokenizer = train_kind(
                kind, trained_on, size, max_length=max_length, at_most=not vocab_sizes, say=console.print
            )
            write_whole(output / name, tokenizer.save_pretrained)
            found[name] = tokenizer
    return _evaluated(folder, console, text, found | others, lambda: held_out)


@until_done()
def inspect_tokenizers(
    tokenizers: Sequence[str], text: Text, output: Path, *, overwrite: bool = False, quiet: bool = False
) -> dict[str, Any]:
    """Evaluate tokenizers on a text.

    Args:
        tokenizers: folders, or names on the Hugging Face hub.
        text: the text to evaluate them on.
        output: folder for `tokenizers.json`.
        overwrite: whether to replace existing files.
        quiet: whether to print nothing.

    Returns:
        The content of `tokenizers.json`.

    Raises:
        GuidanceError: bad input.
    """
    if len({*tokenizers}) < len(tokenizers):
        raise ConfigError("a tokenizer is given twice; name each once")
    folder = Output.of_study(output, TOKENIZERS_FILE, overwrite)
    loaded = {name: load_tokenizer(tokenizer_folder(name)) for name in tokenizers}
    return _evaluated(folder, Console(quiet=quiet), text, loaded, lambda: (document.text for document in text.read()))


def _evaluated(
    folder: Output, console: Console, text: Text, tokenizers: Mapping[str, Any], read: Callable[[], Iterable[str]]
) -> dict[str, Any]:
    content = {
        **results.header("tokenizer"),
        "corpus": text.name,
        "documents": sum(1 for _ in read()),
        "tokenizers": [
            {"name": name} | dataclasses.asdict(tokenizer_facts(tokenizer, read()))
            for name, tokenizer in tokenizers.items()
        ],
    }
    folder.json(TOKENIZERS_FILE, content)
    report(console, content)
    console.print(f"results: {folder.path / TOKENIZERS_FILE}")
    return content


def report(console: Console, content: Mapping[str, Any]) -> None:
    """Print a table of the results."""
    table = Table(title=f"{content['documents']:,} documents of {content['corpus']}")
    columns = ("tokenizer", "tokens", "tokens a word", "words whole", "unknown", "lost", "letters known", "never used")
    for column in columns:
        is_name = column == "tokenizer"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in content["tokenizers"]:
        words = f"{row['fertility']:.2f}", f"{row['whole_words']:.1%}", f"{row['unknown']:.2%}", f"{row['lost']:.2%}"
        shares = f"{row['characters']:.1%}", f"{row['unused']:.1%}"
        table.add_row(row["name"], f"{row['vocabulary']:,}", *words, *shares)
    console.print(table)
    for row in content["tokenizers"]:
        console.print(f"{row['name']}: longest {' '.join(row['longest'][:5])}")
        if row["lost_characters"]:
            console.print(f"{row['name']}: loses {describe_characters(row['lost_characters'])}")
