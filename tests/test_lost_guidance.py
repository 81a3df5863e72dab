"""Guidance that is lost on its way into training is said, once; what is well says nothing. What the callback logs."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from multihead import LENGTH, inputs_of, make_encoder
from test_training_loops import HEADS, stack, train_with_trainer
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from attention_guidance import Schedule, get_guidance, guide
from attention_guidance.errors import AttachError, ConfigError, GuidanceWarning

UNTRAINED = r"in no loss.*guidance\.loss\(\)"


def objective(logits, labels):
    return cross_entropy(logits.flatten(0, 1), labels.flatten())


def steps(model, batch, loss_of, n=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(n):
        loss_of(model, dict(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()


def without_labels(model, batch):
    labels = batch.pop("labels")
    return objective(model(**batch).logits, labels)


def past_the_loss(model, batch):
    """A loss of one's own from the logits, beside that of the model."""
    return objective(model(**batch).logits, batch["labels"])


def read_and_not_added(model, batch):
    loss = without_labels(model, batch)
    get_guidance(model).loss().item()
    return loss


@pytest.mark.parametrize("loss_of", [without_labels, past_the_loss, read_and_not_added])
def test_a_loss_without_guidance(make_model, batch, loss_of):
    model = make_model()
    guide(model, HEADS)
    with pytest.warns(GuidanceWarning, match=UNTRAINED) as said:
        steps(model, batch, loss_of, n=5)
    assert len(said) == 1, "once"


def test_losses_of_ones_own_under_trainer(make_model, examples, tmp_path):
    model = make_model()
    guide(model, HEADS)

    def compute_loss(outputs, labels, num_items_in_batch=None):
        return objective(outputs["logits"], labels)

    with pytest.warns(GuidanceWarning, match=UNTRAINED):
        train_with_trainer(model, examples, tmp_path, steps=3, compute_loss_func=compute_loss)


def with_guidance(model, batch):
    return without_labels(model, batch) + get_guidance(model).loss()


def accumulated(model, batch):
    """Two micro-batches, each with its own backward pass."""
    (model(**{name: tensor[:2] for name, tensor in batch.items()}).loss / 2).backward()
    return model(**{name: tensor[2:] for name, tensor in batch.items()}).loss / 2


def several_before_one_loss(model, batch):
    batch.pop("labels")
    states = [model(**batch).logits.mean() for _ in range(3)]
    return sum(states) + get_guidance(model).loss()


def two_losses(model, batch):
    return model(**batch).loss + model(**batch).loss


def looked_at(model, batch):
    guidance = get_guidance(model)
    with guidance.measure(), torch.no_grad():
        model.eval()(**batch)
    model.train()
    return model(**batch).loss


@pytest.mark.parametrize("loss_of", [with_guidance, accumulated, several_before_one_loss, two_losses, looked_at])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_said_where_all_is_well(make_model, batch, loss_of, checkpointing):
    if checkpointing and loss_of is two_losses:
        pytest.skip("two losses before one backward pass are refused under checkpointing")
    model = make_model()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    guide(model, HEADS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        steps(model, batch, loss_of)
        model.eval()(**batch).loss.backward()


def test_a_weight_of_zero_needs_no_loss(make_model, batch):
    model = make_model()
    guide(model, HEADS, weight=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        steps(model, batch, without_labels)


def plain(model, batch):
    return model(**batch).loss


class TestSchedulesThatHearOfNoStep:
    MATCH = r"schedule 'linear' was never stepped.*guidance\.step\(\).*get_guidance\(model\)"

    def test_a_loop_that_forgets_to_step(self, make_model, batch):
        model = make_model()
        guide(model, HEADS, schedule="linear", total_steps=9)
        with pytest.warns(GuidanceWarning, match=self.MATCH) as said:
            steps(model, batch, plain, n=9)
        assert len(said) == 1

    def test_a_copy(self, make_model, batch):
        """The steps of the original are not those of the copy."""
        model = make_model()
        handle = guide(model, HEADS, schedule="linear", total_steps=9)
        twin = copy.deepcopy(model)
        handle.steps_done = 5
        with pytest.warns(GuidanceWarning, match=self.MATCH):
            steps(twin, batch, plain, n=5)
        assert get_guidance(twin).steps_done == 0

    def test_trainer_without_the_callback(self, make_model, examples, tmp_path):
        model = make_model()
        guide(model, HEADS, schedule="linear", total_steps=6)
        with pytest.warns(GuidanceWarning, match=self.MATCH):
            train_with_trainer(model, examples, tmp_path, steps=6)

    @pytest.mark.parametrize("accumulation", [1, 8])
    def test_one_that_is_stepped(self, make_model, examples, tmp_path, accumulation):
        model = make_model()
        handle = guide(model, HEADS, schedule="linear")
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            train_with_trainer(model, examples, tmp_path, accumulation, steps=4, callbacks=[handle.callback()])

    def test_evaluation_and_loading_are_no_steps(self, make_model, batch):
        model = make_model()
        guide(model, HEADS, schedule="linear", total_steps=6)
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            for _ in range(9):
                model(**batch).loss.backward()
            model.load_state_dict(make_model(seed=1).state_dict())
            model(**batch)


class TestPatternsWithoutATarget:
    MATCH = r"first 10 training passes had a target of nothing in some guided layers.*rows_per_head"

    def test_a_class_that_no_text_has(self, make_model, batch):
        model = make_model()
        guide(model, "next:1 nothing:1", token_classes={"nothing": [0]})
        with pytest.warns(GuidanceWarning, match=self.MATCH) as said:
            steps(model, batch, plain, n=12)
        assert len(said) == 1

    def test_targets_that_the_mask_hides(self):
        """A model that is causal by its mask alone never sees the next token."""
        model = make_encoder()
        guide(model, "next:1 previous:1")
        causal = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)

        def passes():
            for _ in range(10):
                model(inputs_of(), mask=causal, is_causal=False)

        with pytest.warns(GuidanceWarning, match=r"a target of next in some"):
            passes()

    def test_one_target_is_enough(self, make_model, batch):
        model = make_model()
        guide(model, "next:1 rare:1", token_classes={"rare": [0]})
        with warnings.catch_warnings():
            warnings.simplefilter("error", GuidanceWarning)
            for step in range(12):
                ids = batch["input_ids"].clone()
                ids[0, 3] = 0 if step == 8 else 7
                model(**batch | {"input_ids": ids}).loss.backward()


class TestGetGuidance:
    def test_of_a_model_its_copy_and_what_holds_it(self, make_model):
        model = make_model()
        handle = guide(model, HEADS)
        assert get_guidance(model) is handle
        assert get_guidance(torch.nn.Sequential(model)) is handle
        twin = copy.deepcopy(model)
        assert get_guidance(twin) is not handle
        assert get_guidance(twin).model is twin
        get_guidance(twin).remove()
        with pytest.raises(AttachError, match="RobertaForMaskedLM is not guided"):
            get_guidance(twin)
        assert get_guidance(model) is handle

    def test_of_two(self, make_model):
        both = torch.nn.ModuleList([make_model("bert"), make_model("roberta")])
        for model in both:
            guide(model, HEADS, within=both)
        with pytest.raises(AttachError, match=r"contains 2 guided models \(BertForMaskedLM, RobertaForMaskedLM\)"):
            get_guidance(both)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "0.1", None, True])
def test_weights_that_are_none(make_model, weight):
    handle = guide(make_model(), HEADS)
    with pytest.raises(ConfigError, match=r"weight=.* must be 0 or a positive number"):
        handle.weight = weight
    assert handle.weight == 0.1


class Recorder(TrainerCallback):
    """A reporter: it is registered before the callbacks that a user gives."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


class TestLogs:
    def test_heads_without_rows_are_left_out(self, make_model, examples, tmp_path):
        """A class of which no text has a token is no error of 0."""
        model = make_model()
        handle = guide(model, "next:1 nothing:3", token_classes={"nothing": [63]}, weight=0.0)
        for example in examples:
            example["input_ids"][example["input_ids"] == 63] = 5
        recorder = Recorder()
        train_with_trainer(model, examples, tmp_path, steps=1, callbacks=[recorder, handle.callback()])
        assert [n > 0 for n in handle.rows_per_head()] == [True, False, False, False] * 3
        errors = [head.error for head in handle.per_head() if head.pattern == "next"]
        assert recorder.logs[0]["guidance"] == pytest.approx(sum(errors) / 3)
        assert sum(errors) / 3 > 0.2

    def test_no_rows_at_all(self, make_model, examples, tmp_path):
        model = make_model()
        handle = guide(model, "nothing:1", token_classes={"nothing": [1]})
        recorder = Recorder()
        train_with_trainer(model, examples, tmp_path, steps=1, callbacks=[recorder, handle.callback()])
        assert "guidance" not in recorder.logs[0]
        assert recorder.logs[0]["guidance_weight"] == 0.1

    def test_reporters_that_were_there_before_get_the_guidance(self, make_model, examples, tmp_path):
        model = make_model()
        handle = guide(model, HEADS, schedule=Schedule("linear"))
        recorder = Recorder()
        train_with_trainer(model, examples, tmp_path, steps=3, callbacks=[recorder, handle.callback()])
        training = [entry for entry in recorder.logs if "loss" in entry]
        assert len(training) == 3
        assert all(0 < entry["guidance"] < 2 for entry in training)
        assert "guidance" not in recorder.logs[-1], "the summary at the end is of no batch"

    def test_tensorboard(self, make_model, examples, tmp_path, monkeypatch):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        # A run of pretrain in this process leaves its own.
        monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
        model = make_model()
        handle = guide(model, HEADS)
        arguments = TrainingArguments(
            output_dir=str(tmp_path), max_steps=3, logging_steps=1, save_strategy="no", report_to="tensorboard",
            disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, stack, examples, callbacks=[handle.callback()])
        before = list(trainer.callback_handler.callbacks)
        trainer.train()
        events = EventAccumulator(str(next(tmp_path.rglob("events.out.*")).parent))
        events.Reload()
        values = [event.value for event in events.Scalars("train/guidance")]
        logged = [entry["guidance"] for entry in trainer.state.log_history if "loss" in entry]
        assert values == pytest.approx(logged, rel=1e-6)
        assert len(values) == 3
        after = trainer.callback_handler.callbacks
        assert sorted(map(id, after)) == sorted(map(id, before)), "moved, and no other lost or doubled"

    def test_two_guidances_of_one_trainer(self, make_model, examples, tmp_path):
        """Each callback moves itself; all others are still called once."""
        model = make_model()
        handle = guide(model, HEADS)
        counts = []

        class Counter(TrainerCallback):
            def on_train_begin(self, args, state, control, **kwargs):
                counts.append(self)

        counters = [type(f"Counter{i}", (Counter,), {})() for i in range(3)]
        callbacks = [counters[0], handle.callback(), counters[1], handle.callback(), counters[2]]
        train_with_trainer(model, examples, tmp_path, steps=1, callbacks=callbacks)
        assert sorted(map(id, counts)) == sorted(map(id, counters))
