"""The studies, in the order of the page."""

from __future__ import annotations

import importlib

from attention_guidance.errors import GuidanceError

from ..study import Study

NAMES = (
    "objectives", "images", "hyperparameters", "convergence", "initialization", "which-guidance", "why", "alternatives",
    "confirmation", "heads", "skill",
)  # fmt: skip


def every_study() -> list[Study]:
    """All studies."""
    return [get_study(name) for name in NAMES]


def get_study(name: str) -> Study:
    """A study by its name.

    Raises:
        GuidanceError: There is no such study.
    """
    if name not in NAMES:
        raise GuidanceError(f"unknown study {name!r}; expected one of {', '.join(NAMES)}")
    study: Study = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").STUDY
    return study
