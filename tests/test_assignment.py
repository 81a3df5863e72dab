import pytest

from attention_guidance import get_pattern
from attention_guidance.assignment import assign_heads
from attention_guidance.errors import PatternError
from attention_guidance.patterns import First, Offset


def resolved(heads, layers=3, per_layer=4):
    return {(g.layer, g.head): g.pattern.name for g in assign_heads(heads, layers, per_layer, get_pattern)}


def in_every_layer(by_head, layers=3):
    return {(layer, head): name for layer in range(layers) for head, name in by_head.items()}


@pytest.mark.parametrize(
    ("heads", "by_head"),
    [
        ("next:1 previous:1 first:2", {0: "next", 1: "previous", 2: "first", 3: "first"}),
        ("first:0.5", {0: "first", 1: "first"}),
        ("next@3 first@0-1", {3: "next", 0: "first", 1: "first"}),
        ("first:2 next@0", {0: "next", 1: "first", 2: "first"}),
        ("offset:-2:1 previous|next:1", {0: "offset:-2", 1: "previous|next"}),
        ({"next": 1, "first": [2]}, {0: "next", 2: "first"}),
        ({Offset(1): 1, First(): 0.25}, {0: "next", 1: "first"}),
        ("next:1 first:0", {0: "next"}),
    ],
)
def test_the_language_within_a_layer(heads, by_head):
    assert resolved(heads) == in_every_layer(by_head)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ("0: next:1; 2: first:1", {(0, 0): "next", (2, 0): "first"}),
        ("0-1: next:1", {(0, 0): "next", (1, 0): "next"}),
        ("1-: next:1", {(1, 0): "next", (2, 0): "next"}),
        ("0,2: next:1", {(0, 0): "next", (2, 0): "next"}),
        ({0: "next:1", "1-2": {"first": 1}}, {(0, 0): "next", (1, 0): "first", (2, 0): "first"}),
    ],
)
def test_the_language_of_layers(heads, expected):
    assert resolved(heads) == expected


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("next:3 first:2", "2 heads for pattern 'first' in layer 0, but the model has 4 heads"),
        ("3: next:1", "layer '3' in heads does not exist: the model has layers 0 to 2"),
        ("1-7: next:1", "layer '1-7' in heads does not exist"),
        ("next@4", "head 4 for pattern 'next' in layer 0 does not exist: the model has heads 0 to 3"),
        ("next@1 first@1", "head 1 of layer 0 is given to 'next' and 'first'"),
        ("sideways:1", "unknown pattern 'sideways'"),
        ("next", "cannot read 'next'"),
        ("next:many", "cannot read 'next:many'"),
        ("offset:2", "cannot read 'offset:2'"),
        ("next@a", "cannot read heads 'a'"),
        ("first:0.01", "less than half of one head"),
        ("first:1.5", "must lie between 0 and 1"),
        ("0: next:1; 0: first:1", "layer 0 is given twice"),
        ("", "guides no head"),
        ({0: "next:1", "first": 1}, "mixes layers and patterns"),
        ({"next": -1}, "must be 0 or more"),
    ],
)
def test_errors_say_what_does_not_fit(heads, message):
    with pytest.raises(PatternError, match=message):
        resolved(heads)
