"""Guidance of a part of a model joins the loss of the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import MaskedLMOutput

from attention_guidance import guide
from attention_guidance.errors import AttachError

SIZE = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}


class Pair(nn.Module):
    """Two encoders whose states are to be alike."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = BertModel(BertConfig(hidden_size=32, **SIZE))
        self.narrow = BertModel(BertConfig(hidden_size=16, **SIZE))
        self.between = nn.Linear(16, 32)

    def forward(self, input_ids: torch.Tensor, both: bool = True) -> MaskedLMOutput:
        states = self.wide(input_ids).last_hidden_state
        if not both:
            return MaskedLMOutput(loss=states.pow(2).mean())
        difference = states - self.between(self.narrow(input_ids).last_hidden_state)
        return MaskedLMOutput(loss=difference.pow(2).mean(), logits=difference)


@pytest.fixture
def pair():
    made = Pair().double().train()
    for module in made.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return made


IDS = torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(1))


def test_it_joins_the_loss_of_the_whole(pair):
    plain = copy.deepcopy(pair)(IDS)
    guidances = [guide(part, "next:1", weight=0.5, within=pair) for part in (pair.wide, pair.narrow)]
    output = pair(IDS)
    added = sum(guidance.loss() for guidance in guidances)
    assert added > 0.1
    assert output.loss.item() == pytest.approx((plain.loss + added).item(), rel=1e-12)
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-12, atol=1e-12)
    output.loss.backward()
    for part in (pair.wide, pair.narrow):
        assert part.encoder.layer[0].attention.self.query.weight.grad.abs().max() > 0
    assert torch.equal(pair.eval()(IDS).loss, plain.loss)


def test_each_pass_adds_its_own(pair):
    guidance = guide(pair.wide, "next:1", within=pair)
    first, second = pair(IDS).loss, pair(IDS[:, :8]).loss
    (first + second).backward()
    assert guidance.rows_per_head() == [3 * 7] * 2


def test_a_part_that_was_not_called(pair):
    guide(pair.narrow, "next:1", within=pair)
    pair(IDS)
    with pytest.raises(AttachError, match="Pair did not call its part BertModel in training mode"):
        pair(IDS, both=False)


def test_removed_it_is_as_before(pair):
    plain = copy.deepcopy(pair)(IDS).loss
    guidance = guide(pair.wide, "next:1", within=pair)
    assert pair(IDS).loss > plain
    guidance.remove()
    assert torch.equal(pair(IDS).loss, plain)
    assert not pair._forward_hooks
    pair(IDS, both=False)


def test_a_copy_is_guided_too(pair):
    guide(pair.wide, "next:1", weight=0.5, within=pair)
    copied = copy.deepcopy(pair)
    assert torch.equal(copied(IDS).loss, pair(IDS).loss)


@pytest.mark.parametrize("normalizes", [False, True])
def test_the_objective_of_the_whole_stays_as_it_is_under_accumulation(pair, normalizes):
    class Counting(Pair):
        def forward(self, input_ids, labels=None, num_items_in_batch=None):
            return super().forward(input_ids)

    class Normalizing(Counting):
        def loss_function(self):
            """Its forward mentions it, as transformers' models that divide by the number of labels do."""

        def forward(self, input_ids, labels=None, num_items_in_batch=None):
            self.loss_function()
            return Pair.forward(self, input_ids)

    pair.__class__ = Normalizing if normalizes else Counting
    plain = copy.deepcopy(pair)(IDS).loss
    guidances = [guide(part, "next:1", weight=0.5, within=pair) for part in (pair.wide, pair.narrow)]
    added = pair(IDS, labels=IDS, num_items_in_batch=4 * IDS.numel()).loss - plain
    expected = sum(guidance.loss() for guidance in guidances) * (0.25 if normalizes else 1.0)
    assert added.item() == pytest.approx(expected.item(), rel=1e-9)
