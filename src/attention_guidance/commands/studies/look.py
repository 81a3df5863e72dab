"""`attention-guidance look`: the attention of all heads on one sentence or a pair."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attention_guidance.analysis.sentence.look import Look, look
from attention_guidance.commands import results
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.printing import Console
from attention_guidance.commands.studies.models import subjects
from attention_guidance.commands.studies.output import Output

LOOK_FILE = "look.json"
_DIGITS = 5


@until_done()
def save_look(
    model: str,
    text: str,
    pair: str | None,
    output: Path,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    words: bool = False,
    hide_special: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Look at a sentence through all heads of a model, and write pictures and maps.

    Args:
        model: folder of a model or run, or a name on the Hugging Face hub.
        text: as in `look` (`analysis/sentence/look.py`), like `pair`, `heads`, `words` and `hide_special`.
        pair: a second sentence, or None.
        output: folder for `look.html`, `look.svg`, `look.json` and `look.npz` (the maps of all heads).
        heads: the heads to draw large.
        words: whether to show words, not tokens.
        hide_special: whether to leave out added special tokens.
        overwrite: whether to replace existing results in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `look.json`.

    Raises:
        GuidanceError: bad input.
    """
    folder = Output.of_study(output, LOOK_FILE, overwrite)
    (subject,) = subjects(model)
    made = look(subject.load(), subject.tokenizer(), text, pair, heads=heads, words=words, hide_special=hide_special)
    content = {
        **results.header("look"),
        "model": subject.name,
        "text": text,
        "pair": pair,
        "words": words,
        "hide_special": hide_special,
        **_content(made),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, maps=made.maps_LHTT)
    results.write_bytes(folder.path / "look.npz", buffer.getvalue())
    results.write_text(folder.path / "look.svg", made.svg())
    results.write_text(folder.path / "look.html", made.html())
    folder.json(LOOK_FILE, content)
    console = Console(quiet=quiet)
    console.print(f"{len(made.tokens)} {'words' if words else 'tokens'}: {folder.path / 'look.html'}")
    console.print(f"results: {folder.path / LOOK_FILE}; look.svg and look.npz are beside it")
    return content


def _content(made: Look) -> dict[str, Any]:
    """Tokens, sizes, and the maps of the chosen heads."""
    n_layers, n_heads, _, _ = made.maps_LHTT.shape
    return {
        "tokens": made.tokens,
        "sentences": [None if number < 0 else int(number) for number in made.sentence_T],
        "layers": n_layers,
        "heads": n_heads,
        "chosen": [
            {"layer": layer, "head": head, "weights": _rounded(made.maps_LHTT[layer, head])}
            for layer, head in made.heads
        ],
    }


def _rounded(map_TT: np.ndarray[Any, Any]) -> list[list[float]]:
    rounded: list[list[float]] = np.round(map_TT.astype(np.float64), _DIGITS).tolist()
    return rounded
