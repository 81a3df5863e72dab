"""Guided models in the ways people use models: copied, pickled, subclassed, wrapped, with heads of all kinds."""

import numpy as np
import pytest
import torch
from copied import WAYS, copied
from transformers import (
    BertConfig,
    BertForPreTraining,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForMultipleChoice,
    RobertaForQuestionAnswering,
    Trainer,
    TrainingArguments,
)

from attention_guidance import Schedule, get_guidance, guide
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.patterns import Custom

HEADS = "next:1 previous:1 first:1"
SIZE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def make(model_class, config_class=RobertaConfig):
    torch.manual_seed(0)
    return model_class(config_class(**SIZE)).train()


def objective_and_guidance(model_class, inputs, config_class=RobertaConfig):
    """Loss of the plain model, of the guided one, and the guidance alone."""
    plain = make(model_class, config_class)(**inputs).loss.item()
    guided = make(model_class, config_class)
    handle = guide(guided, HEADS, weight=0.5)
    return plain, guided(**inputs).loss.item(), handle.loss().item()


def test_a_loss_without_labels_is_guided_too(batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ends = {"start_positions": torch.tensor([1, 2, 5, 4, 5]), "end_positions": torch.tensor([2, 3, 6, 5, 6])}
    plain, guided, guidance = objective_and_guidance(RobertaForQuestionAnswering, inputs | ends)
    assert guidance > 0.1
    assert guided == pytest.approx(plain + guidance)


def test_labels_without_a_loss_leave_the_output_alone(batch):
    """BERT with its two heads has no loss unless both have labels."""
    plain, guided = (make(BertForPreTraining, BertConfig) for _ in range(2))
    guide(guided, HEADS)
    assert guided(**batch).loss is None
    for ours, theirs in zip(guided(**batch, return_dict=False), plain(**batch, return_dict=False), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_multiple_choice(batch):
    inputs = {name: batch[name][:4].view(2, 2, 12) for name in ("input_ids", "attention_mask")}
    plain, guided, guidance = objective_and_guidance(
        RobertaForMultipleChoice, inputs | {"labels": torch.tensor([0, 1])}
    )
    assert guided == pytest.approx(plain + guidance)


class Passing(RobertaForMaskedLM):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


class Bare(RobertaForMaskedLM):
    def forward(self, input_ids, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask, labels=labels).loss


class Plainly(RobertaForMaskedLM):
    def forward(self, input_ids, attention_mask=None, labels=None):
        output = super().forward(input_ids, attention_mask, labels=labels)
        return {"loss": output.loss, "scores": output.logits}


@pytest.mark.parametrize("model_class", [Passing, Bare, Plainly])
def test_subclasses_with_a_forward_of_their_own(model_class, batch):
    expected = make(RobertaForMaskedLM)(**batch).loss.item()
    model = make(model_class)
    handle = guide(model, HEADS, weight=0.5)
    output = model(**batch)
    loss = output if isinstance(output, torch.Tensor) else output["loss"]
    assert loss.item() == pytest.approx(expected + handle.loss().item())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_copies_are_guided_models_of_their_own(make_model, batch, when, way):
    model = make_model()
    handle = guide(model, HEADS, weight=0.5)
    if when == "after":
        model(**batch).loss.backward()
    other = copied(model, way)
    loss = model(**batch).loss
    assert other(**batch).loss.item() == loss.item()
    handle.remove()
    assert other(**batch).loss.item() == loss.item(), "the copy keeps its guidance"
    assert other.eval()(**batch).loss.item() < loss.item()


def test_an_old_handle_leaves_new_guidance_alone(make_model, batch):
    model = make_model()
    old = guide(model, HEADS)
    old.remove()
    guide(model, HEADS)
    old.remove()
    model(**batch)
    assert model.config._attn_implementation == "attention_guidance"


def test_removing_one_of_two_that_share_a_config(make_model, batch):
    first = make_model()
    second = RobertaForMaskedLM(first.config).train()
    first_handle, second_handle = guide(first, HEADS), guide(second, HEADS)
    first_handle.remove()
    second(**batch)
    first(**batch)
    second_handle.remove()
    assert first.config._attn_implementation == "sdpa"


def test_parts_called_directly_without_training_are_left_alone(make_model, batch):
    model = make_model()
    guide(model, HEADS)
    model(**batch).loss.backward()
    with torch.no_grad():
        assert model.roberta(batch["input_ids"][:2, :7]).last_hidden_state.shape == (2, 7, 32)
    with pytest.raises(ValueError, match="batch_size"):
        model(batch["input_ids"], labels=batch["labels"][:, :3].contiguous())
    with torch.no_grad():
        model.eval().roberta(batch["input_ids"][:2, :7])


class TestCheckpointing:
    def passes(self, make_model, batch):
        model = make_model()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        guide(model, "mine:2", weight=1.0, token_classes={"mine": list(range(5, 20))})
        other = batch | {"input_ids": batch["input_ids"].flip(0)}
        return model, other

    def test_two_passes_before_the_backward_pass_are_refused(self, make_model, batch):
        model, other = self.passes(make_model, batch)
        with pytest.raises(AttachError, match=r"before the next guided forward"):
            (model(**batch).loss + model(**other).loss).backward()

    def test_two_passes_with_a_loss_of_ones_own_are_refused(self, make_model, batch):
        model, other = self.passes(make_model, batch)
        handle = get_guidance(model)
        losses = []
        for inputs in (batch, other):
            model(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
            losses.append(handle.loss())
        with pytest.raises(AttachError, match=r"before the next guided forward"):
            sum(losses).backward()

    def test_a_pass_that_is_dropped_is_no_hindrance(self, make_model, batch):
        model, other = self.passes(make_model, batch)
        dropped = model(**batch).loss
        model(**other).loss.backward()
        assert dropped.requires_grad
        model(**batch).loss.backward()

    def test_evaluation_between_forward_and_backward(self, make_model, batch):
        model, other = self.passes(make_model, batch)
        loss = model(**batch).loss
        model.eval()(**other)
        model.train()
        loss.backward()
        plain = make_model()
        guide(plain, "mine:2", weight=1.0, token_classes={"mine": list(range(5, 20))})
        plain(**batch).loss.backward()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


def test_measure_is_over_rows_not_over_passes(make_model, batch):
    model = make_model().eval()
    handle = guide(model, "next:1")
    small = {name: tensor[:1, :4] for name, tensor in batch.items()}
    means = []
    for one in (batch, small):
        with handle.measure(), torch.no_grad():
            model(**one)
        means.append([head.error for head in handle.per_head()])
    with handle.measure(), torch.no_grad():
        model(**batch)
        model(**small)
    n_rows = (int(batch["attention_mask"].sum()) - 5, 3)
    expected = [(a * n_rows[0] + b * n_rows[1]) / sum(n_rows) for a, b in zip(*means, strict=True)]
    assert [head.error for head in handle.per_head()] == pytest.approx(expected)
    with handle.measure():
        pass
    with pytest.raises(AttachError, match="no guided forward pass"):
        handle.per_head()


@pytest.mark.parametrize("hidden", [-1e4, -1e9, float("-inf"), torch.finfo(torch.float32).min])
def test_additive_masks_of_all_kinds(make_model, batch, hidden):
    handle = guide(model := make_model(), HEADS)
    positions = torch.cumsum(batch["attention_mask"], 1) * batch["attention_mask"] + 1
    model(**batch, position_ids=positions)
    expected = [head.error for head in handle.per_head()]
    additive = torch.zeros(5, 1, 12, 12).masked_fill(batch["attention_mask"][:, None, None, :] == 0, hidden)
    model(**(batch | {"attention_mask": additive}), position_ids=positions)
    assert [head.error for head in handle.per_head()] == pytest.approx(expected, rel=1e-5)


def test_numbers_of_numpy_are_numbers(make_model):
    handle = guide(make_model(), {"next": np.int64(1), "first": [np.int64(3)]})
    assert {(head.head, head.pattern.name) for head in handle.heads} == {(0, "next"), (3, "first")}


@pytest.mark.parametrize(
    "heads",
    [["next:1"], {0: 1}, {"next": "1"}, {"next": {0, 1}}, {(0, 1): "next:1"}, None, {"next": [0.5]}, {"next": True}],
)
def test_heads_of_the_wrong_kind(make_model, heads):
    with pytest.raises(PatternError):
        guide(make_model(), heads)


def test_settings_of_the_wrong_kind(make_model):
    for settings in ({"weight": "0.1"}, {"weight": None}, {"schedule": None}):
        with pytest.raises(ConfigError):
            guide(make_model(), HEADS, **settings)
    with pytest.raises(PatternError, match="wrap a function as Custom"):
        guide(make_model(), "mine:1", patterns={"mine": lambda sequences: sequences.valid_BT})
    assert guide(make_model(), "mine:1", patterns={"mine": Custom("mine", lambda s: s.valid_BT[:, None])})


@pytest.mark.parametrize("wrong", [{"hold": 0.5, "end": 0.2}, {"hold": 9, "end": 3}])
def test_schedules_that_end_before_they_begin(wrong):
    with pytest.raises(ConfigError, match="comes before hold"):
        Schedule("cosine", **wrong)
    with pytest.raises(ConfigError, match="floats are fractions of the run"):
        Schedule("hold-then-linear", hold=0.2, end=1).factor(0, 100)


def test_label_smoothing_is_refused(make_model, batch, tmp_path):
    handle = guide(make_model(), HEADS)
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, max_steps=1, report_to="none", use_cpu=True, save_strategy="no"
    )
    data = [{name: tensor[0] for name, tensor in batch.items()}]
    with pytest.raises(ConfigError, match="label_smoothing_factor"):
        Trainer(handle.model, arguments, train_dataset=data, callbacks=[handle.callback()]).train()
