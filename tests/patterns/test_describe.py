"""Patterns drawn as text, to the letter."""

import pytest
import torch

from attention_guidance import get_pattern
from attention_guidance.commands.tokenization.byte_level import train_tokenizer
from attention_guidance.errors import PatternError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat sat. the dog ran. "] * 3, 276, max_length=32, at_most=True)


def lines(drawing: str) -> list[str]:
    return drawing.split("\n")


def test_next():
    assert lines(get_pattern("next").describe("the cat sat")) == [
        "next: 2 of 3 queries have a target",
        "the  . # .  -> cat",
        "cat  . . #  -> sat",
        "sat  . . .",
    ]


def test_a_union():
    assert lines(get_pattern("previous|first").describe("one three five seven")) == [
        "previous|first: 4 of 4 queries have a target",
        "one    # . . .  -> one",
        "three  # . . .  -> one",
        "five   # # . .  -> one three",
        "seven  # . # .  -> one five",
    ]


def test_a_list_of_tokens():
    assert lines(get_pattern("same").describe(["New York", "is", "big"])) == [
        "same: 3 of 3 queries have a target",
        "New York  # . .  -> New York",
        "is        . # .  -> is",
        "big       . . #  -> big",
    ]


def test_a_token_class(tokenizer):
    assert lines(get_pattern("period", tokenizer).describe("the cat. the dog.", tokenizer)) == PERIOD


def test_tokens_of_the_tokenizer(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the cat. the dog.")["input_ids"])
    assert lines(get_pattern("period", tokenizer).describe(tokens, tokenizer)) == PERIOD


PERIOD = [
    "period: 8 of 8 queries have a target",
    "<s>   . . . # . . # .  -> . .",
    "the   . . . # . . # .  -> . .",
    "cat   . . . # . . # .  -> . .",
    ".     . . . # . . # .  -> . .",
    "the   . . . # . . # .  -> . .",
    "dog   . . . # . . # .  -> . .",
    ".     . . . # . . # .  -> . .",
    "</s>  . . . # . . # .  -> . .",
]


def test_where(tokenizer):
    period = get_pattern("period", tokenizer)
    after_stops = get_pattern("next").where(period.members_of, name="after a stop")
    assert lines(after_stops.describe("the cat. the dog.", tokenizer)) == [
        "after a stop: 2 of 8 queries have a target",
        "<s>   . . . . . . . .",
        "the   . . . . . . . .",
        "cat   . . . . . . . .",
        ".     . . . . # . . .  -> the",
        "the   . . . . . . . .",
        "dog   . . . . . . . .",
        ".     . . . . . . . #  -> </s>",
        "</s>  . . . . . . . .",
    ]


def test_where_without_a_tokenizer():
    def last(sequences):
        rows = torch.zeros_like(sequences.valid_BT)
        rows[:, -1] = True
        return rows

    assert lines(get_pattern("first").where(last).describe("a b")) == [
        "first[where]: 1 of 2 queries have a target",
        "a  . .",
        "b  # .  -> a",
    ]


def test_nothing_to_draw():
    assert get_pattern("next").describe("") == "next: 0 of 0 queries have a target"


def test_what_cannot_be_drawn(tokenizer):
    with pytest.raises(PatternError, match="without input_ids"):
        get_pattern("period", tokenizer).describe("no tokenizer here")
    with pytest.raises(PatternError, match="needs guidance_targets"):
        get_pattern("given").describe("no batch here")
    with pytest.raises(PatternError, match="no grid"):
        get_pattern("left").describe("no image here")
