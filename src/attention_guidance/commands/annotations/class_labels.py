"""The names of labels that a Parquet file of the library datasets keeps beside their numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def class_names(path: Path) -> dict[str, list[str]]:
    """Of each column of labels the names, in the order of the numbers in the file; empty for other files."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow.parquet as pq

    kept = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if kept is None:
        return {}
    features = json.loads(kept).get("info", {}).get("features", {})
    return {column: names for column, feature in features.items() if (names := _names(feature)) is not None}


def _names(feature: Any) -> list[str] | None:
    """Of a ClassLabel, or of a list of them."""
    if isinstance(feature, list):
        return _names(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        return feature.get("names")
    return _names(feature.get("feature"))
