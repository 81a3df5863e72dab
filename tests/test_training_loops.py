"""A guided model trains unchanged in the loops people have: their own, Trainer's, Accelerate's."""

import pytest
import torch
from accelerate import Accelerator
from transformers import Trainer, TrainingArguments

from attention_guidance import Schedule, guide

HEADS = "next:1 previous:1 first:1"


def stack(examples):
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def mean_error(handle):
    errors = [head.error for head in handle.per_head()]
    return sum(errors) / len(errors)


def train_with_trainer(model, examples, folder, accumulation=1, steps=12, **callbacks):
    losses = []

    class Losses(Trainer):
        def log(self, logs, *args, **kwargs):
            losses.append(logs.get("loss"))
            super().log(logs, *args, **kwargs)

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=3e-3,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        train_sampling_strategy="sequential",
    )
    Losses(model=model, args=arguments, train_dataset=examples, data_collator=stack, **callbacks).train()
    return [loss for loss in losses if loss is not None]


def test_plain_loop(make_model, family, examples):
    model = make_model(family)
    handle = guide(model, HEADS, weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        start = 8 * (step % 4)
        loss = model(**stack(examples[start : start + 8])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.item(), mean_error(handle)))
    assert losses[-1][0] < losses[0][0]
    assert losses[-1][1] < 0.7 * losses[0][1]


def test_trainer(make_model, family, examples, tmp_path):
    model = make_model(family)
    handle = guide(model, HEADS, weight=1.0)
    losses = train_with_trainer(model, examples, tmp_path, steps=40)
    unguided = make_model(family)
    at_start = mean_error_of(unguided, examples)
    assert losses[-1] < losses[0]
    assert mean_error(handle) < 0.7 * at_start
    train_with_trainer(unguided, examples, tmp_path, steps=40)
    assert mean_error_of(unguided, examples) > 0.8 * at_start, "without guidance the heads must stay away"


def mean_error_of(model, examples):
    handle = guide(model, HEADS)
    with handle.measure(), torch.no_grad():
        model(**stack(examples))
    handle.remove()
    return mean_error(handle)


def test_accelerate(make_model, family, examples):
    accelerator = Accelerator(cpu=True)
    model = make_model(family)
    handle = guide(model, HEADS, weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = torch.utils.data.DataLoader(examples, batch_size=8, collate_fn=stack)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    errors = []
    for _ in range(10):
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
            errors.append(mean_error(handle))
    assert errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("normalization", ["query", "elementwise"])
def test_accumulation_gives_the_same_curve(make_model, family, examples, tmp_path, normalization):
    curves, weights = [], []
    for accumulation in (1, 4):
        # In double precision, since AdamW makes a full step of the rounding error of a gradient that is zero.
        model = make_model(family).double()
        guide(model, HEADS, weight=1.0, normalization=normalization)
        curves.append(train_with_trainer(model, examples, tmp_path, accumulation))
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert curves[1] == pytest.approx(curves[0], rel=1e-6)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-6, atol=1e-8)


def test_accumulation_is_exact_for_uneven_labels(make_model, family, examples, tmp_path):
    """The objective's mean is over the labels of the whole step, not a mean of means."""
    for number, example in enumerate(examples):
        if number % 3 == 0:
            example["labels"] = example["labels"].clone()
            example["labels"][:12] = -100
    curves = []
    for accumulation in (1, 4):
        model = make_model(family).double()
        guide(model, HEADS, weight=0.0)
        curves.append(train_with_trainer(model, examples, tmp_path, accumulation, steps=6))
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_callback_tells_the_schedule_and_the_logs(make_model, examples, tmp_path):
    model = make_model()
    handle = guide(model, HEADS, weight=0.8, schedule=Schedule("linear"))
    trainer_logs = []
    callback = handle.callback()
    original = callback.on_log

    def on_log(args, state, control, logs=None, **kwargs):
        original(args, state, control, logs=logs, **kwargs)
        trainer_logs.append(dict(logs))

    callback.on_log = on_log
    train_with_trainer(model, examples, tmp_path, steps=4, callbacks=[callback])
    assert handle.total_steps == 4
    assert handle.current_weight == 0
    weights = [logs["guidance_weight"] for logs in trainer_logs if "loss" in logs]
    assert weights == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert all(0 < logs["guidance"] < 2 for logs in trainer_logs if "loss" in logs)
