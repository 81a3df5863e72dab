"""`attention-guidance reflexives`: generate sentences for the reflexive probe."""

from __future__ import annotations

from pathlib import Path

from attention_guidance.commands import results
from attention_guidance.commands.annotations.reflexives import generate_reflexives
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console
from attention_guidance.commands.studies.output import Output

SENTENCES_FILE = "reflexives.txt"
RESULTS_FILE = "reflexives.json"


@until_done()
def reflexives(
    output: Path,
    sentences: int,
    *,
    seed: int = 1,
    plural: bool = True,
    relative_clauses: bool = True,
    attractors: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Write sentences generated from a grammar, one per line.

    Args:
        output: folder for `reflexives.txt` and `reflexives.json` (the settings).
        sentences: number of sentences.
        seed: random seed.
        plural: as in `generate_reflexives` (`commands/annotations/reflexives.py`), like the next two.
        relative_clauses: whether to use relative clauses.
        attractors: whether to use other noun phrases before the reflexive.
        overwrite: whether to replace existing files.
        quiet: whether to print nothing.

    Returns:
        Path of `reflexives.txt`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, SENTENCES_FILE, overwrite)
    options = {"seed": seed, "plural": plural, "relative_clauses": relative_clauses, "attractors": attractors}
    made = generate_reflexives(sentences, **options)  # type: ignore[arg-type]
    folder.json(RESULTS_FILE, {**results.header("reflexives"), "sentences": len(made), **options})
    results.write_data(output / SENTENCES_FILE, "".join(f"{sentence.line()}\n" for sentence in made))
    Console(quiet=quiet).print(f"{len(made):,} sentences: {output / SENTENCES_FILE}")
    return output / SENTENCES_FILE
