"""Targets against brute force: for every union the map is that of the definitions, with each key listed once."""

import random
from itertools import pairwise

import pytest
import torch

from attention_guidance.adapters.inputs_outputs import document_numbers
from attention_guidance.errors import PatternError
from attention_guidance.patterns import (
    Custom,
    First,
    Given,
    Offset,
    Pattern,
    Sequences,
    Targets,
    TokenClass,
    Union,
    checked_targets,
)
from attention_guidance.patterns.targets import MAX_CLASSES

N_BATCH, LENGTH, N_IDS = 3, 9, 7


def random_sequences(rng: random.Random, packed: bool) -> Sequences:
    """Padding on either side, few kinds of tokens, and position ids that restart here and there if packed."""
    valid = torch.ones(N_BATCH, LENGTH, dtype=torch.bool)
    for row in valid:
        pad = rng.randrange(4)
        row[slice(LENGTH - pad, None) if rng.random() < 0.5 else slice(0, pad)] = False
    documents = None
    if packed:
        positions = []
        for _ in range(N_BATCH):
            borders = sorted({0, LENGTH, *rng.sample(range(LENGTH), rng.randrange(3))})
            positions.append([i for start, end in pairwise(borders) for i in range(end - start)])
        documents = document_numbers(torch.tensor(positions), (N_BATCH, LENGTH))
    ids = torch.tensor([[rng.randrange(N_IDS) for _ in range(LENGTH)] for _ in range(N_BATCH)])
    given = {
        "one": torch.tensor([[rng.randrange(-2, LENGTH + 2) for _ in range(LENGTH)] for _ in range(N_BATCH)]),
        "many": torch.tensor(
            [[[rng.randrange(-2, LENGTH + 2) for _ in range(4)] for _ in range(LENGTH)] for _ in range(N_BATCH)]
        ),
        "map": torch.tensor(
            [[[rng.random() < 0.2 for _ in range(LENGTH)] for _ in range(LENGTH)] for _ in range(N_BATCH)]
        ),
    }
    return Sequences(valid, ids, documents, given=given)


def same_document(s, b, i, j):
    return s.documents_BT is None or s.documents_BT[b, i] == s.documents_BT[b, j]


def first_of(s, b, i):
    """The first token of a query's document."""
    return next((j for j in range(LENGTH) if s.valid_BT[b, j] and same_document(s, b, i, j)), None)


def even(s):
    return (s.input_ids_BT % 2 == 0) & s.valid_BT


def near(s):
    place = torch.arange(LENGTH)
    return ((place[:, None] - place).abs() <= 2)[None]


def class_or_pick(s):
    """Targets with a class and single keys, the same for all sequences, listed twice and more."""
    picks = torch.arange(LENGTH)[None, :, None].repeat(1, 1, 3)
    picks[..., 2] = 4
    return Targets(picks) | Targets.of_class(torch.arange(LENGTH)[None] == 4)


def twice(s):
    return Targets(torch.arange(LENGTH)[None, :, None].repeat(1, 1, 2))


def random_part(rng: random.Random, maps: bool = True):
    """A pattern, and whether key j is a target of query i in sequence b."""
    kind = rng.choice(["offset", "first", "class", "one", "many", "every", "mixed", "twice"] + ["map", "near"] * maps)
    if kind == "offset":
        k = rng.randrange(-3, 4)
        return Offset(k), lambda s, b, i, j: j == i + k and s.valid_BT[b, j] and same_document(s, b, i, j)
    if kind == "first":
        return First(), lambda s, b, i, j: j == first_of(s, b, i)
    if kind == "class":
        ids = tuple(rng.sample(range(N_IDS), 2))
        return TokenClass(
            "c", ids
        ), lambda s, b, i, j: s.input_ids_BT[b, j] in ids and s.valid_BT[b, j] and same_document(s, b, i, j)
    if kind in ("one", "many", "map"):

        def is_given(s, b, i, j):
            given = s.given[kind][b, i]
            return s.valid_BT[b, j] and (given[j] if kind == "map" else j in given.flatten().tolist())

        return Given(kind), is_given
    if kind == "every":
        return Custom("even", even), lambda s, b, i, j: s.input_ids_BT[b, j] % 2 == 0 and s.valid_BT[b, j]
    if kind == "near":
        return Custom("near", near), lambda s, b, i, j: abs(i - j) <= 2 and s.valid_BT[b, j]
    if kind == "mixed":
        return Custom("mixed", class_or_pick), lambda s, b, i, j: j in (i, 4)
    return Custom("twice", twice), lambda s, b, i, j: j == i


def random_pattern(rng: random.Random, maps: bool = True):
    """A union of some parts, some of them for the queries of one token only."""
    patterns, definitions = [], []
    for _ in range(rng.randrange(1, 5)):
        pattern, definition = random_part(rng, maps)
        if rng.random() < 0.3:
            token = rng.randrange(N_IDS)

            def rows(s, token=token):
                return s.input_ids_BT == token

            def within(s, b, i, j, token=token, whole=definition):
                return s.input_ids_BT[b, i] == token and whole(s, b, i, j)

            pattern, definition = pattern.where(rows), within
        patterns.append(pattern)
        definitions.append(definition)
    union = patterns[0] if len(patterns) == 1 else Union(tuple(patterns))
    return union, lambda *place: any(definition(*place) for definition in definitions)


def by_loops(sequences: Sequences, definition) -> torch.Tensor:
    places = range(LENGTH)
    return torch.tensor([[[bool(definition(sequences, b, i, j)) for j in places] for i in places]
                         for b in range(N_BATCH)])  # fmt: skip


def assert_listed_once(targets: Targets, dense: torch.Tensor) -> None:
    """The compact form names as many keys as the map has: none twice."""
    if targets.map_BQK is not None:
        return
    count = torch.zeros(N_BATCH, LENGTH, dtype=torch.long)
    if targets.picks_BQP is not None:
        count = count + (targets.picks_BQP >= 0).sum(-1)
    columns = targets.class_columns()
    if columns is not None:
        count = count + targets.shares_class(columns[:, None].expand(-1, LENGTH, -1)).sum(-1)
    assert torch.equal(count, dense.sum(-1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("maps", [False, True])
def test_unions_are_those_of_their_definitions(packed, maps):
    compact = 0
    for seed in range(60):
        rng = random.Random(seed)
        sequences = random_sequences(rng, packed)
        pattern, definition = random_pattern(rng, maps)
        targets = pattern.targets(sequences)
        expected = by_loops(sequences, definition)
        assert torch.equal(targets.dense().expand_as(expected), expected), f"{seed}: {pattern}"
        assert_listed_once(targets, expected)
        compact += targets.map_BQK is None
        for batch, queries in [(slice(1, 3), slice(2, 6)), (slice(0, 1), slice(0, LENGTH)), (slice(0, 3), slice(8, 9))]:
            part = targets.rows(batch, queries).dense(LENGTH)
            assert torch.equal(part.expand(*expected[batch, queries].shape), expected[batch, queries]), f"{seed}"
    assert compact > 20, "most unions have to be compact for this to test anything"


def test_without_maps_the_form_is_compact():
    """But for keys that every query looks at joined with classes of documents."""
    for seed in range(60):
        rng = random.Random(seed)
        sequences = random_sequences(rng, packed=False)
        assert random_pattern(rng, maps=False)[0].targets(sequences).map_BQK is None


def test_the_order_of_a_union_does_not_matter():
    for seed in range(40):
        rng = random.Random(seed)
        sequences = random_sequences(rng, packed=seed % 2 == 0)
        first, second = random_part(rng)[0], random_part(rng)[0]
        ways = [(first | second), (second | first), (first | second | first)]
        maps = [way.targets(sequences).dense().expand(N_BATCH, LENGTH, LENGTH) for way in ways]
        assert torch.equal(maps[0], maps[1])
        assert torch.equal(maps[0], maps[2])


def test_class_columns_are_the_keys_of_any_class():
    members = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    others = torch.tensor([[0, 1, 0, 0, 1]], dtype=torch.bool)
    targets = Targets.of_class(members) | Targets.of_class(others)
    columns = targets.class_columns()
    assert columns.shape == (3, 3)
    assert [set(row) for row in columns.tolist()][:2] == [{1, 3, 4}, {1, 4, 0}]
    shared = targets.shares_class(columns[:, None].expand(-1, 5, -1))
    assert shared[:, 0].tolist() == [[True] * 3, [True, True, False], [True, True, False]]
    assert Targets(torch.zeros(1, 5, 1, dtype=torch.long)).class_columns() is None
    assert Targets.of_class(torch.zeros(2, 5, dtype=torch.bool)).class_columns().shape == (2, 0)


@pytest.mark.parametrize("n_classes", [MAX_CLASSES, MAX_CLASSES + 1, 2 * MAX_CLASSES + 3])
@pytest.mark.parametrize("packed", [False, True])
def test_more_classes_than_a_code_holds(n_classes, packed):
    """Beyond 16 the union becomes a map; up to there it does not, and the last class is not lost."""
    generator = torch.Generator().manual_seed(n_classes)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]]) if packed else None
    union, expected = None, torch.zeros(1, 9, 9, dtype=torch.bool)
    for number in range(n_classes):
        members = torch.zeros(1, 9, dtype=torch.bool)
        members[0, number % 9] = number < 5 or number == n_classes - 1
        rows = torch.rand(1, 9, generator=generator) < 0.5
        targets = Targets.of_class(members, documents).where(rows)
        expected |= members[:, None] & rows[..., None]
        union = targets if union is None else union | targets
    if packed:
        expected &= documents[:, None] == documents[..., None]
    assert (union.map_BQK is None) == (n_classes <= MAX_CLASSES)
    assert expected.any()
    assert torch.equal(union.dense(), expected)


def test_documents_are_told_apart_up_to_high_numbers():
    length = 3000
    documents = torch.arange(length)[None] // 2
    dense = Targets.of_class(torch.ones(1, length, dtype=torch.bool), documents).dense()
    assert torch.equal(dense, documents[:, None] == documents[..., None])


def test_a_class_across_documents_keeps_its_keys_in_a_union():
    """Keys that every query looks at, in any document; the first token only in its own."""
    sequences = Sequences(
        torch.ones(1, 4, dtype=torch.bool), torch.tensor([[1, 3, 2, 3]]), torch.tensor([[0, 0, 1, 1]])
    )
    dense = (First() | Custom("even", even)).targets(sequences).dense()
    assert dense.int().tolist() == [[[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]]]


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (1, 1, 4), (3, 1, 4), (1, 4, 4), (3, 4, 4)])
def test_shapes_that_a_function_may_return(shape):
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[1, 2:] = False
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    dense = Custom("mine", lambda s: given).targets(Sequences(valid)).dense().expand(3, 4, 4)
    full = (given[:, None] if len(shape) == 2 else given).expand(3, 4, 4)
    assert torch.equal(dense, full & valid[:, None])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            torch.ones(4, 4, dtype=torch.bool),
            r"'mine' returned torch.bool \[4, 4\]; .*\[3, 4, 4\] or \[B, K\] = \[3, 4\]",
        ),
        (torch.ones(3, 4, 5, dtype=torch.bool), r"returned torch.bool \[3, 4, 5\]"),
        (torch.ones(3, 4), r"returned torch.float32 \[3, 4\]"),
        ([[True]], "returned list"),
        (None, "returned NoneType"),
    ],
)
def test_what_a_function_may_not_return(result, message):
    with pytest.raises(PatternError, match=message):
        Custom("mine", lambda s: result).targets(Sequences(torch.ones(3, 4, dtype=torch.bool)))


def test_rows_have_to_be_bool_and_of_the_batch():
    sequences = Sequences(torch.ones(3, 4, dtype=torch.bool))
    everywhere = Offset(1).where(lambda s: torch.tensor([[True, False, True, True]]))
    assert everywhere.targets(sequences).dense().sum((1, 2)).tolist() == [2, 2, 2]
    for rows in (torch.ones(3, 4), torch.ones(4, dtype=torch.bool), torch.ones(3, 5, dtype=torch.bool), True):
        with pytest.raises(PatternError, match=r"rows of 'next\[where\]' are .*; expected a bool tensor \[3, 4\]"):
            Offset(1).where(lambda s, rows=rows: rows).targets(sequences)


class Listed(Pattern):
    """A pattern of a user's own class."""

    name = "listed"

    def __init__(self, targets):
        self.made = targets

    def targets(self, sequences):
        return self.made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Targets(), "with no field set"),
        (Targets(torch.zeros(2, 4)), r"picks_BQP of torch.float32 \(2, 4\); expected torch.int64, \[2 or 1, 4, P\]"),
        (Targets(torch.zeros(3, 4, 1, dtype=torch.long)), r"expected torch.int64, \[2 or 1, 4, P\]"),
        (Targets(map_BQK=torch.zeros(2, 4, 4)), r"map_BQK of torch.float32"),
        (torch.zeros(2, 4), "Tensor; expected Targets"),
    ],
)
def test_a_class_of_ones_own_that_returns_something_else(made, message):
    with pytest.raises(PatternError, match=f"pattern 'listed' returned .*{message}"):
        checked_targets(Listed(made), Sequences(torch.ones(2, 4, dtype=torch.bool)))


def test_a_class_of_ones_own_may_list_keys_twice_and_beyond_the_end():
    picks = torch.tensor([[[1, 1], [0, 9], [-7, 2], [3, 3]]])
    found = checked_targets(Listed(Targets(picks)), Sequences(torch.ones(2, 4, dtype=torch.bool)))
    assert found.picks_BQP.tolist() == [[[1, -1], [0, -1], [-1, 2], [3, -1]]]
