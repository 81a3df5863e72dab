"""Read documents from the Hugging Face Hub or any folder that `datasets` loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attention_guidance.commands.plain import listed
from attention_guidance.commands.text.corpora import Document, cut_documents
from attention_guidance.errors import ConfigError, CorpusError

_BROKEN = "give its files as the corpus instead to see the file and line of the error"
_LOCAL = "if the hub cannot be reached, download its files elsewhere and give their folder as the corpus"


class HubDocuments:
    """The documents of one split of a data set, read from disk at each iteration and not held in memory.

    Args:
        name: Name of the data set on the hub, or a folder with its files; downloaded once, to the cache of `datasets`.
        config: Configuration of the data set, if it has several.
        split: Split of the data set.
        field: Column that holds the text.

    Raises:
        ConfigError: `datasets` is not installed, or there is no such data set, configuration or split.
        CorpusError: There is no such column, or it does not hold text.
    """

    def __init__(self, name: str, config: str | None, split: str, field: str) -> None:
        self.name = name
        self.field = field
        self.rows = _load(name, config, split)
        columns = self.rows.features
        if field not in columns:
            raise CorpusError(
                f"dataset={name!r}: no column {field!r} (`text_field`); there are {listed([*columns], repr)}"
            )
        self.rows = self.rows.select_columns([field])

    def __iter__(self) -> Iterator[Document]:
        return cut_documents(self._texts(), self.name, f"dataset={self.name!r}")

    def _texts(self) -> Iterator[tuple[str, str]]:
        for number, row in enumerate(self.rows, 1):
            text = row[self.field]
            if not isinstance(text, str):
                kind = "null" if text is None else type(text).__name__
                raise CorpusError(f"{self.name}:{number}: column {self.field!r} holds {kind}, expected a string")
            yield f":{number}", text


def _load(name: str, config: str | None, split: str) -> Any:
    try:
        from datasets import disable_progress_bars, load_dataset
    except ImportError as error:
        raise ConfigError("data sets on the hub need datasets: pip install 'attention-guidance[hub]'") from error
    disable_progress_bars()
    try:
        return load_dataset(name, config, split=split)
    except Exception as error:  # datasets and the hub raise many types
        # The cause names the error in a file.
        source = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        reason = " ".join((str(source).strip() or type(source).__name__).split())
        hint = _BROKEN if source is not error else _LOCAL
        raise ConfigError(f"dataset={name!r} cannot be loaded ({reason[:300]}); {hint}") from error
