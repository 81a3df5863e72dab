"""Attention patterns: for every query, the keys that a head should attend to.

A pattern is a small object that maps a batch (`Sequences`) to the target keys of every query (`Targets`). The same
objects are used to train, measure and draw heads. They compose: ``Offset(-1) | Offset(1)``, ``Offset(1).where(rows)``.
"""

from attention_guidance.patterns.alignment import Diagonal
from attention_guidance.patterns.base import Pattern, Sequences, Union, Where, checked_pattern, checked_targets
from attention_guidance.patterns.kinds import (
    GIVEN,
    ClassToken,
    Custom,
    First,
    Given,
    GridOffset,
    Offset,
    TokenClass,
    check_crossing,
    wants_class_token,
)
from attention_guidance.patterns.lookup import NAMED, TOKEN_CLASSES, Patterns, TokenClasses, get_pattern
from attention_guidance.patterns.targets import Targets

__all__ = [
    "GIVEN",
    "NAMED",
    "TOKEN_CLASSES",
    "ClassToken",
    "Custom",
    "Diagonal",
    "First",
    "Given",
    "GridOffset",
    "Offset",
    "Pattern",
    "Patterns",
    "Sequences",
    "Targets",
    "TokenClass",
    "TokenClasses",
    "Union",
    "Where",
    "check_crossing",
    "checked_pattern",
    "checked_targets",
    "get_pattern",
    "wants_class_token",
]
