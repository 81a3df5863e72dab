"""Read the label names that the `datasets` library stores in Parquet metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attention_guidance.commands.reading.json_files import parse_json
from attention_guidance.errors import CorpusError


def class_names(path: Path) -> dict[str, list[str]]:
    """Map each label column to its names, in the order of their numbers; empty for files without such metadata."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow.parquet as pq

    metadata = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if metadata is None:
        return {}
    stated = parse_json(metadata.decode(errors="replace"), path, "write the file again", CorpusError)
    features = stated
    for key in ("info", "features"):
        features = features.get(key, {}) if isinstance(features, Mapping) else {}
    if not isinstance(features, Mapping):
        return {}
    return {column: names for column, feature in features.items() if (names := _names(feature)) is not None}


def _names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel or of a list of them."""
    if isinstance(feature, list):
        return _names(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    return _names(feature.get("feature"))
