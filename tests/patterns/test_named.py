"""Patterns by name: offsets, the first token, classes of tokens, those of the user."""

import pytest
import torch

from attention_guidance import Pattern, Sequences, get_pattern
from attention_guidance.commands.tokenization.byte_level import train_tokenizer
from attention_guidance.errors import PatternError
from attention_guidance.patterns import Custom, First, Offset, TokenClass

VALID = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.bool)
IDS = torch.tensor([[0, 7, 9, 2], [1, 0, 9, 1]])
SEQUENCES = Sequences(VALID, IDS)


def targets(pattern: Pattern) -> list[list[set[int]]]:
    """For each sequence and query, the set of target keys."""
    dense = pattern.targets(SEQUENCES).dense().expand(2, 4, 4)
    return [[set(row.nonzero().flatten().tolist()) for row in rows] for rows in dense]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("next", [{1}, {2}, {3}, set()]),
        ("previous", [set(), {0}, {1}, {2}]),
        ("same", [{0}, {1}, {2}, {3}]),
        ("offset:2", [{2}, {3}, set(), set()]),
        ("offset:-3", [set(), set(), set(), {0}]),
        ("previous|next", [{1}, {0, 2}, {1, 3}, {2}]),
    ],
)
def test_offsets_by_hand(name, expected):
    without_padding = [row & {1, 2} for row in expected]
    assert targets(get_pattern(name)) == [expected, without_padding]


def test_first_is_the_first_token_that_is_not_padding():
    assert targets(First()) == [[{0}] * 4, [{1}] * 4]


def test_token_class_marks_every_member():
    assert targets(TokenClass("x", (2, 9))) == [[{2, 3}] * 4, [{2}] * 4]


def test_token_class_needs_ids():
    with pytest.raises(PatternError, match="without input_ids"):
        TokenClass("x", (2,)).targets(Sequences(VALID))


def test_names_give_the_pattern_back():
    for name in ("next", "previous", "same", "first", "offset:5", "offset:-2", "next|first"):
        assert get_pattern(name).name == name
        assert get_pattern(name) == get_pattern(name)
    assert Offset(1) | First() == get_pattern("next|first")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["one. two, three; four. five.Six?"] * 3, 262, max_length=32)


def test_delimiter_and_period_come_from_the_tokenizer(tokenizer):
    assert get_pattern("delimiter", tokenizer).token_ids == (tokenizer.eos_token_id,)
    period = get_pattern("period", tokenizer)
    assert [tokenizer.convert_tokens_to_string([t]).strip() for t in
            tokenizer.convert_ids_to_tokens(list(period.token_ids))] == ["."] * len(period.token_ids)  # fmt: skip
    assert tokenizer.convert_tokens_to_ids(".") in period.token_ids


def test_token_classes_of_ones_own(tokenizer):
    by_text = get_pattern("comma", tokenizer, {"comma": [",", ";"]})
    assert set(by_text.token_ids) >= set(tokenizer.convert_tokens_to_ids([",", ";"]))
    by_function = get_pattern("digits", tokenizer, {"digits": str.isdigit})
    assert set(tokenizer.convert_tokens_to_ids(list("0123456789"))) <= set(by_function.token_ids)
    assert get_pattern("mine", None, {"mine": [5, 3]}).token_ids == (3, 5)


def test_a_pattern_of_ones_own():
    diagonal = Custom("mirror", lambda s: torch.eye(s.valid_BT.shape[1], dtype=torch.bool).flip(0)[None])
    mirror = get_pattern("mirror", patterns={"mirror": diagonal})
    assert targets(mirror) == [[{3}, {2}, {1}, {0}], [set(), {2}, {1}, set()]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nxt", "unknown pattern 'nxt'; expected one of next, previous, same, first, left"),
        ("offset:x", "unknown pattern 'offset:x'"),
        ("period", "give tokenizer="),
        ("next|perhaps", "unknown pattern 'perhaps'"),
    ],
)
def test_errors_name_what_was_given(name, message):
    with pytest.raises(PatternError, match=message):
        get_pattern(name)


def test_an_empty_class_is_an_error(tokenizer):
    with pytest.raises(PatternError, match=r"'emoji': none of the tokenizer's \d+ tokens"):
        get_pattern("emoji", tokenizer, {"emoji": ["🙂"]})


def test_a_class_given_as_text_is_an_error(tokenizer):
    """A string is a collection of its letters, which nobody means."""
    with pytest.raises(
        PatternError, match=r"token_classes\['and'\] is the string 'and'; give a list of tokens: \['and'\]"
    ):
        get_pattern("and", tokenizer, {"and": "and"})
