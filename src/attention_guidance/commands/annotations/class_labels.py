"""Read the label names that the `datasets` library stores in Parquet metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def class_names(path: Path) -> dict[str, list[str]]:
    """Map each label column to its names, in the order of their numbers; empty for files without such metadata."""
    if path.suffix.lower() != ".parquet":
        return {}
    import pyarrow.parquet as pq

    metadata = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    if metadata is None:
        return {}
    features = json.loads(metadata).get("info", {}).get("features", {})
    return {column: names for column, feature in features.items() if (names := _names(feature)) is not None}


def _names(feature: Any) -> list[str] | None:
    """The names of a ClassLabel or of a list of them."""
    if isinstance(feature, list):
        return _names(feature[0]) if len(feature) == 1 else None
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") == "ClassLabel":
        return feature.get("names")
    return _names(feature.get("feature"))
