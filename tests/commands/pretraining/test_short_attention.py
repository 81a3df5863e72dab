"""Which kernel attention takes on CPUs in bf16, by the length of sequences."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainingArguments

from attention_guidance.commands.pretraining.loop.short_attention import short_attention

SDPA = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture
def arguments(tmp_path):
    def make(**changed):
        return TrainingArguments(str(tmp_path), **{"bf16": True, "use_cpu": True, "report_to": "none"} | changed)

    return make


def is_flash(inputs, arguments):
    """Whether torch's flash attention was taken, by the node of its backward pass."""
    query = torch.randn(1, 2, 8, 4, requires_grad=True, dtype=torch.bfloat16)
    with short_attention(inputs, arguments):
        node = SDPA(query, query, query).grad_fn
    return "Flash" in type(node).__name__ or "Flash" in node.name()


def ids(length):
    return {"input_ids": torch.zeros(2, length, dtype=torch.long)}


@pytest.mark.parametrize(("length", "flash"), [(12, False), (128, False), (129, True), (512, True)])
def test_short_sequences_take_plain_products(arguments, length, flash):
    assert is_flash(ids(length), arguments()) is flash


@pytest.mark.parametrize("changed", [{"bf16": False}, {"gradient_checkpointing": True}])
def test_nothing_changes_elsewhere(arguments, changed):
    assert is_flash(ids(12), arguments(**changed))


def test_inputs_of_other_kinds_are_left_alone(arguments):
    assert is_flash({"pixel_values": torch.zeros(2, 3, 8, 8)}, arguments())


def test_the_choice_ends_with_the_pass(arguments):
    with short_attention(ids(12), arguments()):
        pass
    assert is_flash(ids(512), arguments())


def test_outputs_and_gradients_are_no_farther_from_the_truth(arguments):
    """Against float64, at an odd length: as near as flash attention, in each."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 63, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    pull = torch.randn(2, 3, 63, 16, dtype=torch.bfloat16)

    def found(dtype, inputs):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in (query, key, value)]
        with short_attention(inputs, arguments()):
            output = SDPA(*leaves)
        return [output.double(), *(g.double() for g in torch.autograd.grad(output, leaves, pull.to(dtype)))]

    true = found(torch.float64, ids(512))
    for exact, flash, short in zip(true, found(torch.bfloat16, ids(512)), found(torch.bfloat16, ids(63)), strict=True):
        assert (short - exact).norm() <= 1.05 * (flash - exact).norm()
        assert not torch.equal(short, flash)
