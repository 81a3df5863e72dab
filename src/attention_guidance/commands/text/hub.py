"""Documents of data sets on the Hugging Face hub, or of any folder that the library `datasets` reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attention_guidance.commands.text.corpora import Document
from attention_guidance.errors import ConfigError, CorpusError

_BROKEN = "given as the corpus, its files are read with the file and line of what is wrong"
_LOCAL = "where the hub cannot be reached, fetch its files elsewhere and give their folder as the corpus"


class HubDocuments:
    """The documents of a split of a data set, as often as they are gone through; read from disk, not held in memory.

    Args:
        name: of the data set on the hub, or a folder of its files; it is downloaded once, into the library's own cache.
        config: which of its configurations, where it has several.
        split: which of its splits.
        field: the column that holds the text.

    Raises:
        ConfigError: the library is not installed, or there is no such data set, configuration or split.
        CorpusError: there is no such column, or it holds no text.
    """

    def __init__(self, name: str, config: str | None, split: str, field: str) -> None:
        self.name = name
        self.field = field
        self.rows = _load(name, config, split)
        columns = self.rows.features
        if field not in columns:
            raise CorpusError(
                f"dataset={name!r}: no column {field!r} (--text-field); there are {', '.join(map(repr, columns))}"
            )
        self.rows = self.rows.select_columns([field])

    def __iter__(self) -> Iterator[Document]:
        for number, row in enumerate(self.rows, 1):
            text = row[self.field]
            if not isinstance(text, str):
                kind = "null" if text is None else type(text).__name__
                raise CorpusError(f"{self.name}:{number}: column {self.field!r} holds {kind}, expected a string")
            if text := text.strip():
                yield Document(text, f"{self.name}:{number}")


def _load(name: str, config: str | None, split: str) -> Any:
    try:
        from datasets import disable_progress_bars, load_dataset
    except ImportError as error:
        raise ConfigError("data sets of the hub need datasets: pip install 'attention-guidance[hub]'") from error
    disable_progress_bars()
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:  # the library and the hub raise all kinds
        # What went wrong with a file is said by the cause.
        told = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        reason = " ".join((str(told).strip() or type(told).__name__).split())
        hint = _BROKEN if told is not error else _LOCAL
        raise ConfigError(f"dataset={name!r} cannot be loaded ({reason[:300]}); {hint}") from error
