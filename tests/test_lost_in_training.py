"""Ways of training in which guidance was lost, or weighed too much, without a word; and those that only look so."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from test_lost_guidance import objective, steps
from test_training_loops import HEADS, stack, train_with_trainer
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from attention_guidance import get_guidance, guide
from attention_guidance.errors import ConfigError, GuidanceWarning


def own_loss(model, batch):
    labels = batch.pop("labels")
    return objective(model(**batch).logits, labels)


def own_loss_of_hidden_states(model, batch):
    """A tuple, of which the first is no loss."""
    del batch["labels"]
    return model(**batch, return_dict=False, output_hidden_states=True)[0].square().mean()


def plain(model, batch):
    return model(**batch).loss


class TestTrainingInEvaluationMode:
    """As `from_pretrained` gives a model; guidance is of training mode alone."""

    MATCH = r"RobertaForMaskedLM is trained in evaluation mode.*call model\.train\(\)"

    @pytest.mark.parametrize("loss_of", [plain, own_loss, own_loss_of_hidden_states])
    def test_it_is_said(self, make_model, batch, loss_of):
        model = make_model().eval()
        guide(model, HEADS)
        with pytest.warns(GuidanceWarning, match=self.MATCH) as said:
            steps(model, batch, loss_of, n=9)
        assert len(said) == 1

    def test_of_a_copy(self, make_model, batch):
        model = make_model()
        guide(model, HEADS)
        model(**batch).loss.backward()
        with pytest.warns(GuidanceWarning, match=self.MATCH):
            steps(copy.deepcopy(model).eval(), batch, plain, n=9)

    def test_what_is_no_training(self, make_model, batch):
        """Saliency, an average of weights that is evaluated, a model that trains in between."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            saliency, average, other = (make_model().eval() for _ in range(3))
            for model in (saliency, average, other):
                guide(model, HEADS)
            for _ in range(9):
                saliency(**batch).loss.backward()
                average(**batch)
                with torch.no_grad():
                    for parameter in average.parameters():
                        parameter.mul_(0.99)
                steps(other.train(), batch, plain, n=1)
                other.eval()(**batch).loss.backward()


class TestFrozenQueriesAndKeys:
    MATCH = "guidance trains nothing"

    def test_of_a_loss_without_guidance(self, make_model, batch):
        model = make_model()
        model.roberta.requires_grad_(False)
        guide(model, HEADS)
        with pytest.warns(GuidanceWarning, match=self.MATCH) as said:
            steps(model, batch, own_loss, n=12)
        assert len(said) == 1

    def test_layers_that_are_compiled_are_not_frozen(self, make_model, batch):
        compiled, eager = make_model(), make_model()
        for layer in compiled.roberta.encoder.layer:
            layer.compile(backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            for model in (compiled, eager):
                # `auto` takes another backend under torch.compile, which differs in the last bits.
                guide(model, HEADS, backend="blocked")
                steps(model, batch, plain)
        for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_a_reference_that_is_frozen(self, make_model, batch):
        """As PEFT's model without its adapter, called with gradients on."""
        model = make_model()
        guide(model, HEADS)
        del batch["labels"]

        def distance_to_a_frozen_self(model, batch):
            logits = model(**batch).logits
            model.requires_grad_(False)
            reference = model(**batch).logits
            model.requires_grad_(True)
            return (logits - reference + 1).square().mean() + get_guidance(model).loss()

        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            steps(model, batch, distance_to_a_frozen_self, n=12)


class Losses:
    """A `compute_loss_func` as docs/guide.md has it."""

    def __init__(self, guidance):
        self.guidance = guidance

    def __call__(self, outputs, labels, num_items_in_batch=None):
        if num_items_in_batch is None:
            return objective(outputs.logits, labels) + self.guidance.loss()
        total = cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        share = (labels != -100).sum() / num_items_in_batch
        return total / num_items_in_batch + share * self.guidance.loss()


class TestALossOfOnesOwnUnderTrainer:
    @pytest.mark.parametrize("accumulation", [1, 4])
    def test_it_trains_as_the_models_own(self, make_model, examples, tmp_path, accumulation):
        models = [make_model().double() for _ in range(2)]
        handles = [guide(model, HEADS, weight=1.0) for model in models]
        curves = [
            train_with_trainer(model, examples, tmp_path, accumulation, compute_loss_func=loss)
            for model, loss in zip(models, (None, Losses(handles[1])), strict=True)
        ]
        assert curves[1] == pytest.approx(curves[0], rel=1e-6)
        for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("own", [False, True])
    def test_its_evaluation_is_the_objective_alone(self, make_model, examples, tmp_path, own):
        """Before the first step and after the last."""
        model = make_model()
        handle = guide(model, HEADS, weight=1.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=2, eval_strategy="steps", eval_steps=1, eval_on_start=True,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, per_device_eval_batch_size=32,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, stack, examples, examples, compute_loss_func=Losses(handle) if own else None,
            callbacks=[handle.callback()],
        )  # fmt: skip
        trainer.train()
        evaluated = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
        with torch.no_grad():
            assert evaluated[0] == pytest.approx(make_model().eval()(**stack(examples)).loss.item(), rel=1e-5)
            assert evaluated[-1] == pytest.approx(model.eval()(**stack(examples)).loss.item(), rel=1e-5)
        assert len(evaluated) == 3


def test_guidance_after_a_call_in_evaluation_mode(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS, weight=1.0)
    model.eval()(**batch)
    assert handle.loss().item() == 0
    loss = model.train()(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits.mean()
    model.eval()(**batch)
    held = handle.loss()
    assert held.item() > 0.1, "of the training pass, which is in no loss yet"
    (loss + held).backward()
    assert handle.loss().item() == 0
    model.train()(**batch)
    assert handle.loss().item() == pytest.approx(held.item())


class TestTheCallbackOfAnotherModel:
    """What Trainer trains is not what is guided: it would log the guidance of earlier passes."""

    MATCH = r"the guided RobertaForMaskedLM is not part of the \w+ that this Trainer trains.*get_guidance"

    @pytest.mark.parametrize("other", ["a copy", "another one"])
    def test_it_is_refused(self, make_model, batch, examples, tmp_path, other):
        model = make_model()
        handle = guide(model, HEADS)
        model(**batch).loss.backward()
        trained = copy.deepcopy(model) if other == "a copy" else make_model("bert")
        with pytest.raises(ConfigError, match=self.MATCH):
            train_with_trainer(trained, examples, tmp_path, steps=1, callbacks=[handle.callback()])

    def test_model_init(self, make_model, examples, tmp_path):
        handle = guide(make_model(), HEADS)
        arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True)
        trainer = Trainer(
            None, arguments, stack, examples, model_init=lambda: make_model(), callbacks=[handle.callback()]
        )
        with pytest.raises(ConfigError, match=self.MATCH):
            trainer.train()
