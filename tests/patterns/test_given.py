"""Targets from the batch: their shapes, what is no target, mappings, and errors."""

import pytest
import torch

from attention_guidance import get_pattern
from attention_guidance.errors import PatternError
from attention_guidance.patterns import Given, Sequences

VALID = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)


def targets(given, name="given", valid=VALID):
    """For each sequence and query, the list of targets."""
    dense = get_pattern(name).targets(Sequences(valid, given=given)).dense()
    assert dense.shape == (2, 4, 4)
    return [[row.nonzero().flatten().tolist() for row in rows] for rows in dense]


def test_one_key_for_each_query():
    given = torch.tensor([[1, 0, 3, 3], [1, 2, 0, -1]])
    # Key 0 of the second sequence is padding, and a negative number stands for none.
    assert targets(given) == [[[1], [0], [3], [3]], [[1], [2], [], []]]


def test_several_keys_each_listed_once():
    given = torch.tensor([[[1, 1, 3], [-1, -1, -1], [2, -1, 2], [0, 1, 2]], [[3, 0, 3]] * 4])
    assert targets(given) == [[[1, 3], [], [2], [0, 1, 2]], [[3]] * 4]
    picks = Given().targets(Sequences(VALID, given=given)).picks_BQP
    assert (picks >= 0).sum(-1).tolist() == [[2, 0, 1, 3], [1, 1, 1, 1]]


def test_a_map():
    given = torch.eye(4, dtype=torch.bool).flip(0).repeat(2, 1, 1)
    assert targets(given) == [[[3], [2], [1], [0]], [[3], [2], [1], []]]


def test_a_key_that_was_cut_off_is_no_target():
    given = torch.tensor([[4, 100, 3, 2**40], [-100, 4, 3, 2]])
    assert targets(given) == [[[], [], [3], []], [[], [], [3], [2]]]
    assert given.max() > 3 >= Given().targets(Sequences(VALID, given=given)).picks_BQP.max()


def test_no_target_in_the_whole_batch():
    """A collator that pads to the longest list of a batch may find none."""
    assert targets(torch.full((2, 4), -1)) == [[[]] * 4] * 2
    assert targets(torch.zeros(2, 4, 0, dtype=torch.long)) == [[[]] * 4] * 2


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_any_integer_will_do(dtype):
    assert targets(torch.tensor([[1, 0, 3, 3]] * 2, dtype=dtype))[0] == [[1], [0], [3], [3]]


def test_a_mapping_gives_each_pattern_its_own():
    given = {"head": torch.tensor([[1, 0, 3, 3]] * 2), "a.b": torch.tensor([[-1, 2, -1, -1]] * 2)}
    assert targets(given, "given.head")[0] == [[1], [0], [3], [3]]
    assert targets(given, "given.a.b")[0] == [[], [2], [], []]
    assert targets(given, "given.head|given.a.b")[0] == [[1], [0, 2], [3], [3]]
    assert targets(given, "given.head|next")[0] == [[1], [0, 2], [3], [3]]
    assert get_pattern("given.head").name == "given.head"
    assert get_pattern("given.head") == Given("head")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("given", None, r"needs guidance_targets .*long \[2, 4\].*remove_unused_columns=False"),
        ("given.head", None, r"needs guidance_targets\['head'\] .*remove_unused_columns=False"),
        ("given.head", {"tail": VALID}, r"needs guidance_targets\['head'\] .*guidance_targets holds 'tail'"),
        ("given.head", {}, r"needs guidance_targets\['head'\] .*guidance_targets holds nothing"),
        ("given.head", torch.zeros(2, 4).long(), r"\['head'\] .*guidance_targets is torch.int64 \[2, 4\]"),
        ("given", {"head": VALID}, r"'given' needs guidance_targets .*guidance_targets holds 'head'"),
        ("given", [[0, 1, 2, 3]] * 2, "guidance_targets is list"),
        ("given", torch.zeros(2, 4), r"guidance_targets is torch.float32 \[2, 4\]; expected long \[2, 4\]"),
        (
            "given",
            torch.ones(2, 4, 4) / 3,
            r"^guidance_targets: the soft target of query 0 in sequence 0 sums to 1.3",
        ),
        ("given", VALID, r"guidance_targets is torch.bool \[2, 4\]"),
        ("given", torch.zeros(2, 4, 3, dtype=torch.bool), r"is torch.bool \[2, 4, 3\].*bool \[2, 4, 4\]"),
        ("given", torch.zeros(2, 5).long(), r"is torch.int64 \[2, 5\]"),
        ("given", torch.zeros(1, 4).long(), r"is torch.int64 \[1, 4\]"),
        ("given", torch.zeros(2, 4, 4, 4).long(), r"is torch.int64 \[2, 4, 4, 4\]"),
        ("given.head", {"head": torch.zeros(2, 5).long()}, r"guidance_targets\['head'\] is torch.int64 \[2, 5\]"),
    ],
)
def test_errors_name_the_place_and_what_is_there(name, given, message):
    with pytest.raises(PatternError, match=message):
        get_pattern(name).targets(Sequences(VALID, given=given))
