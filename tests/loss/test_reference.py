"""The reference loss against evaluations written from the definitions with loops over numbers."""

import itertools
import math

import pytest
import torch

from attention_guidance.errors import ConfigError
from attention_guidance.loss import reference
from attention_guidance.loss.aggregate import check_normalization, count_pairs, elementwise_mean, mean, query_sums
from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import row_losses
from attention_guidance.patterns import First, Offset, Sequences, Targets, TokenClass


def softmax_rows(q, k, scale, allowed):
    """Attention of one head as lists: softmax over the allowed keys."""
    rows = []
    for i in range(len(q)):
        scores = [scale * (q[i] @ k[j]).item() if allowed[i][j] else -math.inf for j in range(len(k))]
        total = sum(math.exp(s) for s in scores)
        rows.append([math.exp(s) / total if total else 0.0 for s in scores])
    return rows


def make(n_batch, n_heads, length, channels=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    q, k = (2 * torch.randn(n_batch, n_heads, length, channels, generator=generator, dtype=dtype) for _ in "qk")
    return q.requires_grad_(), k.requires_grad_()


def rows_of(q, k, mask, targets, scale, objective="squared_error"):
    """The rows of all heads toward one pattern."""
    call = AttentionCall(q, k, k, ((targets, q.shape[1]),), scale, mask, log_mass=objective == "log_mass")
    return row_losses(reference.statistics(call), objective)


PATTERNS = [Offset(1), Offset(-1), Offset(3), First(), TokenClass("c", (3, 4)), Offset(1) | Offset(-1)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
def test_rows_against_the_definition(pattern, objective):
    q, k = make(2, 3, 7)
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[1, 5:] = False
    ids = torch.tensor([[3, 5, 4, 5, 5, 3, 5], [5, 5, 5, 5, 5, 3, 4]])  # the second has no visible member of the class
    allowed = valid[:, None, :].expand(2, 7, 7)
    targets = pattern.targets(Sequences(valid, ids))
    rows = rows_of(q, k, allowed[:, None], targets, 0.4, objective)
    targets = targets.dense().expand(2, 7, 7) & allowed
    for b in range(2):
        for h in range(3):
            attention = softmax_rows(q[b, h], k[b, h], 0.4, allowed[b].tolist())
            for i in range(7):
                chosen = targets[b, i].nonzero().flatten().tolist()
                if objective == "squared_error":
                    goal = [1 / len(chosen) if j in chosen else 0.0 for j in range(7)]
                    expected = sum((a - p) ** 2 for a, p in zip(attention[i], goal, strict=True))
                else:
                    expected = -math.log(sum(attention[i][j] for j in chosen)) if chosen else 0.0
                assert rows[b, h, i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_soft_rows_against_the_definition():
    """`sum_j (A_ij - P_ij)^2` and `-sum_j P_ij log A_ij`; P is scaled to the keys that the mask shows."""
    q, k = make(2, 3, 7)
    allowed = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(3)) < 0.7
    allowed[1, 2] = False
    soft = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    soft[:, :, 3] = 0
    soft /= soft.sum(-1, keepdim=True)
    soft[0, 4] = 0
    soft[1, 5] = torch.eye(7)[0]
    allowed[1, 5, 0] = False
    for objective in ("squared_error", "cross_entropy"):
        call = AttentionCall(
            q, k, k, ((Targets(soft_BQK=soft), 3),), 0.4, allowed[:, None], log_mass=objective != "squared_error"
        )
        statistics = reference.statistics(call)
        rows = row_losses(statistics, objective)
        for b, h, i in itertools.product(range(2), range(3), range(7)):
            attention = softmax_rows(q[b, h], k[b, h], 0.4, allowed[b].tolist())[i]
            shown = (soft[b, i] * allowed[b, i]).tolist()
            goal = [p / sum(shown) if sum(shown) else 0.0 for p in shown]
            assert (statistics.n_targets_BHQ[b, h, i] > 0) == any(goal)
            if objective == "squared_error":
                expected = sum((a - p) ** 2 for a, p in zip(attention, goal, strict=True))
            else:
                expected = -sum(p * math.log(a) for a, p in zip(attention, goal, strict=True) if p)
            assert rows[b, h, i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
def test_gradients_by_finite_differences(objective):
    q, k = make(1, 2, 5, channels=3)
    allowed = torch.ones(1, 5, 5, dtype=torch.bool)
    allowed[0, :, 4] = False
    allowed[0, 3] = False  # a row that may attend to nothing
    targets = Offset(1).targets(Sequences(torch.ones(1, 5, dtype=torch.bool)))
    assert torch.autograd.gradcheck(lambda q, k: rows_of(q, k, allowed[:, None], targets, 0.5, objective), (q, k))


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
def test_a_row_without_keys_is_zero_and_finite(objective):
    q, k = make(1, 1, 3)
    allowed = torch.zeros(1, 3, 3, dtype=torch.bool)
    allowed[0, 0] = True
    rows = rows_of(q, k, allowed[:, None], Targets(map_BQK=torch.eye(3, dtype=torch.bool)[None]), 1.0, objective)
    rows.sum().backward()
    assert rows[0, 0, 1:].tolist() == [0, 0]
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(k.grad).all()


def authors_loss(q, k, n_heads_by_pattern, scale):
    """The authors' definition: MSELoss of each pattern's group of maps against the repeated target map, summed."""
    attention = torch.softmax(scale * q @ k.transpose(-1, -2), -1)
    length, start, total = q.shape[2], 0, 0
    for offset, count in n_heads_by_pattern:
        target = torch.zeros(length, length, dtype=q.dtype)
        for i in range(length):
            if offset == "first":
                target[i, 0] = 1
            elif 0 <= i + offset < length:
                target[i, i + offset] = 1
        group = attention[:, start : start + count]
        total = total + torch.nn.MSELoss()(group, target.repeat(len(q), count, 1, 1))
        start += count
    return total


@pytest.mark.parametrize(("n_batch", "length"), [(1, 2), (3, 9), (2, 64), (4, 128)])
@pytest.mark.parametrize("groups", [[(1, 1), (-1, 1), ("first", 4)], [(0, 2), (1, 1)], [("first", 8)]], ids=str)
def test_elementwise_is_the_authors_number_in_fp32(n_batch, length, groups):
    n_heads = sum(count for _, count in groups)
    q, k = make(n_batch, n_heads, length, channels=16, dtype=torch.float32)
    expected = authors_loss(q, k, groups, 0.25)
    expected_grads = torch.autograd.grad(expected, (q, k))
    sequences = Sequences(torch.ones(n_batch, length, dtype=torch.bool))
    total, start = 0, 0
    for offset, count in groups:
        pattern = First() if offset == "first" else Offset(offset)
        group = slice(start, start + count)
        rows = rows_of(q[:, group], k[:, group], None, pattern.targets(sequences), 0.25)
        total = total + elementwise_mean(rows, sequences.valid_BT, count_pairs(sequences.valid_BT, None))
        start += count
    grads = torch.autograd.grad(total, (q, k))
    assert abs(total - expected) <= 1e-6 * abs(expected)
    for ours, theirs in zip(grads, expected_grads, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_query_means_count_only_rows_with_a_token_and_a_target():
    rows = torch.tensor([[[1.0, 2.0, 4.0, 100.0]]])
    counted = torch.tensor([[[True, False, True, False]]])
    assert mean(*query_sums(rows, counted)).tolist() == [2.5]
    assert mean(*query_sums(rows, counted & False)).tolist() == [0.0]


def test_pairs_are_of_tokens_and_keys_they_see():
    valid = torch.tensor([[True, True, False], [True, True, True]])
    assert count_pairs(valid, None) == 4 + 9
    assert count_pairs(valid, valid[:, None, None, :]) == 4 + 9
    assert count_pairs(valid, torch.eye(3, dtype=torch.bool)[None, None]) == 2 + 3


def test_elementwise_needs_squared_error():
    with pytest.raises(ConfigError, match=r"elementwise.*log_mass"):
        check_normalization("elementwise", "log_mass")
    with pytest.raises(ConfigError, match="unknown normalization 'row'"):
        check_normalization("row", "squared_error")
