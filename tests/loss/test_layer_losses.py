"""The losses of layers at once are those of each alone."""

import pytest
import torch

from attention_guidance.loss.aggregate import count_pairs, elementwise_mean, mean, query_sums
from attention_guidance.loss.layers import LayerRows, layer_losses
from attention_guidance.loss.statistics import RowStatistics, row_losses

VALID = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


def make_rows(seed, heads=3, valid=VALID, mask=None):
    generator = torch.Generator().manual_seed(seed)
    size = (*valid.shape[:1], heads, valid.shape[1])

    def draw():
        return torch.rand(size, generator=generator, dtype=torch.float64).requires_grad_()

    n_targets = torch.randint(0, 3, size, generator=generator).double()
    return LayerRows(RowStatistics(draw(), draw(), n_targets), valid, mask, (slice(0, 1), slice(1, heads)))


def once(rows):
    """Layers that are called once."""
    return {layer: [of_layer] for layer, of_layer in rows.items()}


def alone(rows, objective, normalization):
    """One layer's, from the parts."""
    losses = row_losses(rows.statistics, objective)
    counted = (rows.statistics.n_targets_BHQ > 0) & rows.valid_BT[:, None]
    sums, counts = query_sums(losses, counted)
    if normalization == "query":
        return mean(sums, counts).sum(), sums, counts
    n_pairs = count_pairs(rows.valid_BT, rows.mask)
    return sum(elementwise_mean(losses[:, heads], rows.valid_BT, n_pairs) for heads in rows.groups), sums, counts


@pytest.mark.parametrize(
    ("objective", "normalization"),
    [("squared_error", "query"), ("log_mass", "query"), ("squared_error", "elementwise")],
)
def test_at_once_as_alone(objective, normalization):
    """Also where layers differ in heads, in tokens or in masks."""
    rows = {
        4: make_rows(0),
        0: make_rows(1),
        2: make_rows(2, heads=2),
        1: make_rows(3, valid=~VALID),
        3: make_rows(4, mask=torch.eye(5, dtype=torch.bool)[None, None]),
    }
    found = layer_losses(once(rows), objective, normalization)
    assert list(found) == [4, 0, 2, 1, 3], "in the order in which layers were called"
    for layer, of_layer in rows.items():
        loss, sums, counts = alone(of_layer, objective, normalization)
        torch.testing.assert_close(found[layer].loss, loss)
        torch.testing.assert_close(found[layer].sums, sums.detach())
        assert torch.equal(found[layer].counts, counts)
        assert not found[layer].sums.requires_grad
    assert len({float(of_layer.loss) for of_layer in found.values()}) == len(rows)


def test_gradients_reach_their_own_layer():
    rows = {layer: make_rows(layer) for layer in range(3)}
    found = layer_losses(once(rows), "squared_error", "query")
    (2 * found[1].loss).backward()
    gradients = [of_layer.statistics.squares_BHQ.grad for of_layer in rows.values()]
    (expected,) = torch.autograd.grad(2 * alone(rows[1], "squared_error", "query")[0], rows[1].statistics.squares_BHQ)
    torch.testing.assert_close(gradients[1], expected)
    assert not gradients[0].any()
    assert not gradients[2].any()


@pytest.mark.parametrize("lengths", [(2, 5), (1, 1, 3)])
@pytest.mark.parametrize(
    ("objective", "normalization"),
    [("squared_error", "query"), ("log_mass", "query"), ("squared_error", "elementwise")],
)
def test_the_rows_of_several_calls_are_those_of_one_layer(objective, normalization, lengths):
    """A mean over all rows, or over all pairs of tokens; layers that are called once stand beside."""

    def call(seed, length):
        return make_rows(seed, valid=torch.ones(2, length, dtype=torch.bool))

    rows = {0: [call(seed, length) for seed, length in enumerate(lengths)], 1: [call(9, 4)]}
    found = layer_losses(rows, objective, normalization)
    losses = [row_losses(one.statistics, objective) for one in rows[0]]
    if normalization == "query":
        counted = [one.statistics.n_targets_BHQ > 0 for one in rows[0]]
        by_head = [
            torch.cat([of_call[:, head][which[:, head]] for of_call, which in zip(losses, counted, strict=True)])
            for head in range(3)
        ]
        expected = sum(of_head.sum() / max(len(of_head), 1) for of_head in by_head)
        torch.testing.assert_close(found[0].sums, torch.stack([of_head.sum() for of_head in by_head]).detach())
        assert found[0].counts.tolist() == [len(of_head) for of_head in by_head]
    else:
        n_pairs = sum(2 * length**2 for length in lengths)
        expected = sum(of_call[:, heads].sum() / n_pairs / n for of_call in losses for heads, n in GROUPS)
    torch.testing.assert_close(found[0].loss, expected)
    torch.testing.assert_close(found[1].loss, alone(rows[1][0], objective, normalization)[0])


GROUPS = [(slice(0, 1), 1), (slice(1, 3), 2)]


def test_no_rows_no_losses():
    assert layer_losses({}, "squared_error", "query") == {}
