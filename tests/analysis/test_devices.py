"""Devices without double precision (Apple's GPUs) can be looked at and guided too."""

from __future__ import annotations

import sys

import pytest
import torch
from encoders import TEXT
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import BertConfig, BertForMaskedLM

from attention_guidance.analysis import ablate, take_census
from attention_guidance.patterns import Sequences, alignment, get_pattern
from attention_guidance.patterns.targets import sums_dtype

USERS = ("analysis.ablation", "analysis.census", "analysis.without_heads")


class SinglePrecision(TorchDispatchMode):
    """Refuses to compute tensors in double precision."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = str(function)
        # A result may be double once it has left the device, but nothing may be computed from it there.
        double = any(isinstance(x, Tensor) and x.dtype == torch.float64 for x in tree_leaves(made))
        if double and name.split(".")[1] not in ("_to_copy", "detach"):
            raise AssertionError(f"{name} in double precision")
        return made


def test_sums_of_each_device():
    dtypes = {name: sums_dtype(torch.device(name)) for name in ("cpu", "cuda", "mps")}
    assert dtypes == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32}


def test_nothing_is_double_where_sums_are_single(monkeypatch):
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**TEXT["Bert"]))
    ids = torch.randint(5, 60, (12, 8))
    batches = [{"input_ids": ids, "labels": ids.masked_fill(torch.rand(12, 8) < 0.5, -100)}]
    texts = [{"input_ids": ids}]

    def measured():
        found = ablate(model, batches, "mean")
        return found.difference.value, take_census(model, texts, "next first").mass.value

    expected = measured()
    for name in USERS:
        monkeypatch.setattr(sys.modules[f"attention_guidance.{name}"], "sums_dtype", lambda device: torch.float32)
    with SinglePrecision():
        found = measured()
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("name", ["diagonal", "soft_diagonal"])
def test_diagonals_are_single_too(name, monkeypatch):
    sequences = Sequences(torch.ones(1, 4, dtype=torch.bool), keys_BK=torch.ones(1, 6, dtype=torch.bool))
    expected = get_pattern(name).targets(sequences).as_soft(6).soft_BQK
    monkeypatch.setattr(alignment, "sums_dtype", lambda device: torch.float32)
    with SinglePrecision():
        found = get_pattern(name).targets(sequences).as_soft(6).soft_BQK
    torch.testing.assert_close(found, expected.float())
