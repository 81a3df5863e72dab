"""`attention-guidance predict`: labels and scores for new texts, from a fine-tuned model."""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from attention_guidance.commands import results
from attention_guidance.commands.finetuning.prediction.inputs import STANDARD_INPUT, Item, read_items
from attention_guidance.commands.finetuning.prediction.outputs import WRITERS, Writer
from attention_guidance.commands.finetuning.prediction.predictor import Predictor
from attention_guidance.commands.memory import names_batch_size
from attention_guidance.commands.printing import Console
from attention_guidance.commands.workspace import check_usable
from attention_guidance.errors import ConfigError, CorpusError, RunError

# Texts are read, predicted and written in chunks of this size, to bound memory.
_CHUNK = 512


@names_batch_size
def predict_files(
    model: str,
    files: Sequence[str],
    output: str,
    *,
    words: bool = False,
    columns: Sequence[str] | None = None,
    batch_size: int = 32,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Predict on texts and write labels and scores.

    Args:
        model: see `Predictor.load`.
        files: see `read_items`.
        output: the output file; its name decides the format: .jsonl, .tsv, .csv, .conll or .txt. `-` is standard
            output, as JSON lines.
        words: see `read_items`.
        columns: see `read_items`.
        batch_size: items per batch.
        overwrite: replace an existing output file.
        quiet: print nothing except predictions to standard output.

    Returns:
        The number of texts.

    Raises:
        GuidanceError: the input is invalid. A file is written completely or not at all.
    """
    to_screen = output == STANDARD_INPUT
    suffix = ".jsonl" if to_screen else Path(output).suffix.lower()
    if suffix not in WRITERS:
        raise ConfigError(f"output={output}: expected a name that ends in {', '.join(WRITERS)}, or - for JSON lines")
    _check(files, output, overwrite=overwrite)
    predictor = Predictor.load(model, batch_size=batch_size)
    if suffix in (".conll", ".txt") and predictor.data.task.kind != "tokens":
        task = predictor.data.task.name
        raise ConfigError(f"output={output}: {suffix} is for labels of words; this model's task is {task}")
    items = (item for file in files for item in read_items(predictor.data.task, file, words=words, columns=columns))
    console = Console(stderr=True, quiet=quiet or to_screen)
    with _stream(output) as stream, console.status("predicting") as status:
        n = 0
        for text in _predictions(predictor, items, WRITERS[suffix]):
            with results.writing(Path(output)):
                stream.write(text)
            n += 1
            if n % _CHUNK == 0:
                status.update(f"predicting: {n:,} texts")
        if not n:
            raise ConfigError(f"{', '.join(files)}: no text to predict on")
    console.print(f"{n:,} texts: {output}")
    return n


def _check(files: Sequence[str], output: str, *, overwrite: bool) -> None:
    """Refuse before anything is predicted what would fail after it.

    Raises:
        CorpusError: an input is missing.
        RunError: the output is an input or a folder, exists, or cannot be written.
    """
    path = Path(output)
    for file in files:
        if file != STANDARD_INPUT and not Path(file).exists():
            raise CorpusError(f"{file}: cannot be read (No such file or directory)")
        if file != STANDARD_INPUT and output != STANDARD_INPUT and path.exists() and path.samefile(file):
            raise RunError(f"{output} is an input; give another output")
    if output == STANDARD_INPUT:
        return
    if path.is_dir():
        raise RunError(f"{output} is a folder; give a file as output")
    if path.exists() and not overwrite:
        raise RunError(f"{output} exists; give another output, or overwrite it")
    check_usable(path.parent)


def _predictions(predictor: Predictor, items: Iterator[Item], write: Writer) -> Iterator[str]:
    while chunk := list(itertools.islice(items, _CHUNK)):
        for item, prediction in zip(chunk, predictor([item.texts for item in chunk]), strict=True):
            yield write(predictor.data, item, prediction)


@contextlib.contextmanager
def _stream(output: str) -> Iterator[IO[str]]:
    """The output stream: standard output, or a file that appears once all predictions are written."""
    if output == STANDARD_INPUT:
        if sys.stdout is None:
            raise RunError("standard output is closed; give a file as output")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # as files are, whatever the terminal's locale
        yield sys.stdout
        sys.stdout.flush()
        return
    with results.whole_file(Path(output)) as file:
        stream = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        yield stream
        stream.detach()
