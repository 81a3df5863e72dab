"""Calls of guided attention to try backends on, and what comes back from one, with its gradients."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from attention_guidance.loss.call import AttentionCall
from attention_guidance.loss.statistics import row_losses
from attention_guidance.patterns import Custom, First, Offset, Sequences, TokenClass

PATTERNS = [
    Offset(1),
    Offset(-1),
    Offset(3),
    First(),
    TokenClass("c", (3, 4)),
    Offset(1) | Offset(-1),
    Offset(-1) | First(),
    Offset(0) | TokenClass("c", (3, 4)) | TokenClass("d", (4, 5)),
    Offset(1).where(lambda sequences: sequences.input_ids_BT == 4) | First(),
]
MAPPED = Custom("tril", lambda sequences: torch.ones(1, *[sequences.valid_BT.shape[1]] * 2, dtype=torch.bool).tril())


def soft_rows(sequences: Sequences) -> Tensor:
    """Random probabilities of every key; some queries have no target, and some keys no probability."""
    length = sequences.valid_BT.shape[1]
    rows = torch.rand(1, length, length, generator=torch.Generator().manual_seed(6), dtype=torch.float64).square()
    rows[:, :, ::3] = 0
    rows[:, :, 0] += 0.1
    rows /= rows.sum(-1, keepdim=True)
    rows[:, 1::4] = 0
    return rows


SOFT = Custom("soft", soft_rows)
MASKS = ("none", "keys", "pairs", "window")


def make_sequences(n_batch: int, length: int) -> Sequences:
    """Some tokens; the first sequence is padded on the right and the second on the left where there is room."""
    valid = torch.ones(n_batch, length, dtype=torch.bool)
    if length > 2 and n_batch > 1:
        valid[0, length - length // 4 - 1 :] = False
        valid[1, : length // 3] = False
    return Sequences(valid, torch.randint(0, 9, (n_batch, length), generator=torch.Generator().manual_seed(5)))


def make_mask(kind: str, sequences: Sequences) -> Tensor | None:
    """None; padding hidden as a key; as query, too, so that some rows see nothing; and besides only a window."""
    valid = sequences.valid_BT
    if kind == "none":
        return None
    if kind == "keys":
        return valid[:, None, None, :]
    pairs = valid[:, None, :, None] & valid[:, None, None, :]
    if kind == "pairs":
        return pairs
    position = torch.arange(valid.shape[1])
    return pairs & ((position[:, None] - position).abs() <= 2)


def make_call(patterns, mask="none", n_batch=2, length=9, channels=8, dtype=torch.float64, heads_each=1, **more):
    """Random queries, keys and values, the same for the same sizes."""
    sequences = make_sequences(n_batch, length)
    generator = torch.Generator().manual_seed(length)
    size = (n_batch, heads_each * len(patterns), length, channels)
    query, key, value = (
        (1.5 * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_() for _ in range(3)
    )
    groups = tuple((pattern.targets(sequences), heads_each) for pattern in patterns)
    return AttentionCall(query, key, value, groups, channels**-0.5, make_mask(mask, sequences), **more)


def evaluate(backend, call: AttentionCall, of: str = "output rows") -> dict[str, Tensor]:
    """Output, rows of the loss, numbers of targets, and the gradients of a random function of output or rows or both.

    Of rows alone, there is no gradient of the values.
    """
    generator = torch.Generator().manual_seed(2)
    for tensor in (call.query_BHQD, call.key_BHKD, call.value_BHKD):
        tensor.grad = None
    out, statistics = backend.attend(call)
    rows = row_losses(statistics, "log_mass" if call.log_mass else "squared_error")
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    pulls = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    terms = {"output": (out.double() * weights).sum(), "rows": (rows.double() * pulls).sum()}
    sum(term for name, term in terms.items() if name in of).backward()
    found = {
        "output": out.detach(),
        "rows": rows.detach(),
        "targets": statistics.n_targets_BHQ,
        "query": call.query_BHQD.grad,
        "key": call.key_BHKD.grad,
        "value": call.value_BHKD.grad,
    }
    return {name: value for name, value in found.items() if "output" in of or name not in ("output", "value")}


def in_double(call):
    tensors = {
        name: getattr(call, name).detach().double().requires_grad_()
        for name in ("query_BHQD", "key_BHKD", "value_BHKD")
    }
    return dataclasses.replace(call, **tensors)


def sharpened(call, sharpness):
    """Attention that is nearly uniform, peaked, or nearly all on the next token."""
    with torch.no_grad():
        if sharpness == "on target":
            query = torch.nn.functional.normalize(call.query_BHQD.double(), dim=-1) * 12
            call.query_BHQD.copy_(query)
            call.key_BHKD.copy_(query.roll(1, 2) + 0.1 * call.key_BHKD)
        else:
            call.query_BHQD.mul_(sharpness)
    return call
