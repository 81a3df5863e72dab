"""Repeated texts: in several splits, or with different labels."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from attention_guidance.commands.text.holding_out import comparable

if TYPE_CHECKING:
    from attention_guidance.commands.finetuning.examples.data import Example

# Texts occur several times in a reading.
_plain = functools.lru_cache(maxsize=1 << 20)(comparable)


def text_key(example: Example) -> tuple[str, ...]:
    """A key that is equal for examples of the same text, whatever their labels.

    It ignores what `comparable` ignores.
    """
    of_words = isinstance(example.label, tuple) and not is_several(example.label)
    return (_plain("".join(example.texts)),) if of_words else tuple(map(_plain, example.texts))


def is_several(label: tuple[object, ...]) -> bool:
    """Whether a label is 0.0 and 1.0 for several labels of one text, rather than the labels of its words."""
    return bool(label) and isinstance(label[0], float)


def overlaps(splits: Mapping[str, Sequence[Example]]) -> list[str]:
    """Notes on texts that are in several splits, or that repeat with different labels."""
    keys = {split: [text_key(example) for example in examples] for split, examples in splits.items()}
    said = []
    for split, seen, why in (
        ("dev", "train", ", which inflates scores"),
        ("test", "train", ", which inflates scores"),
        ("test", "dev", ", on which learning rate and epoch are chosen"),
    ):
        if split in splits:
            there = {*keys[seen]}
            if count := sum(key in there for key in keys[split]):
                said.append(f"{count} of {len(splits[split])} texts of {split} are also in {seen}{why}")
    return [*said, *_contradictions(splits, keys)]


def _contradictions(
    splits: Mapping[str, Sequence[Example]], keys: Mapping[str, Sequence[tuple[str, ...]]]
) -> list[str]:
    """Notes on texts with different labels, which no model can predict. Numbers may differ: they may be averaged."""
    first: dict[tuple[str, ...], tuple[Hashable, str]] = {}
    clashing: Counter[str] = Counter()
    example_of: dict[str, str] = {}
    for split, examples in splits.items():
        for key, example in zip(keys[split], examples, strict=True):
            label, place = first.setdefault(key, (example.label, example.place))
            if label != example.label and not isinstance(label, float):
                clashing[split] += 1
                example_of.setdefault(split, f"{example.place} and {place}")
    return [
        f"{n:,} of {len(splits[split]):,} texts of {split} have a different label than an earlier copy of the same "
        f"text, as at {example_of[split]}"
        for split, n in clashing.items()
    ]
