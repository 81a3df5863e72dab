"""Half precision: guidance is as near to its value in float32 as the model's own attention maps allow.

The tolerance everywhere is twice the error that the model's own eager attention makes under the same autocast: queries
and keys come rounded to both, so that no computation could do much better, while one that rounds scores or
probabilities once more, or sums rows in half precision, does worse.
"""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import Trainer, TrainingArguments

from attention_guidance import guide

NAMES = ["next", "previous", "first"]
HEADS = "next:1 previous:1 first:1"
HALVES = [torch.bfloat16, torch.float16]
halves = pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])


@pytest.fixture
def long_batch():
    """Eight sequences of 32 tokens, one of them padded: enough rows for errors of rounding to be typical."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(5, 64, (8, 32), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.8, -100).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def autocast(dtype):
    return torch.autocast("cpu", dtype, enabled=dtype is not torch.float32)


def errors_of_maps(model, batch):
    """Each guided head's mean squared error, in the order layer, head, from the maps of the model's eager attention."""
    model.set_attn_implementation("eager")
    maps = model(**batch, output_attentions=True).attentions
    valid = batch["attention_mask"].bool()
    positions = torch.arange(valid.shape[1])
    targets = {"next": positions + 1, "previous": positions - 1, "first": torch.zeros_like(positions)}
    errors = []
    for layer in maps:
        for head, name in enumerate(NAMES):
            target = targets[name]
            inside = (target >= 0) & (target < len(target))
            wanted = torch.nn.functional.one_hot(target.where(inside, 0), len(target)).float()
            rows = (layer[:, head].float() - wanted).square().sum(-1)
            # All sequences begin at position 0 and are padded on the right.
            counted = valid & inside & valid[:, target.where(inside, 0)]
            errors.append(rows[counted].mean())
    return torch.stack(errors)


def errors_of(handle):
    return torch.tensor([head.error for head in handle.per_head()])


def query_and_key_gradients(model, loss, scale=1.0):
    """One vector; scaled as GradScaler does, so that float16 does not underflow."""
    model.zero_grad()
    (scale * loss).backward()
    parts = [p.grad for name, p in model.named_parameters() if ".query.weight" in name or ".key.weight" in name]
    return torch.cat([part.float().flatten() for part in parts]) / scale


def typical(difference):
    return difference.square().mean().sqrt().item()


@halves
def test_guidance_is_as_exact_as_the_attention(make_model, family, long_batch, dtype):
    exact = errors_of_maps(make_model(family), long_batch)
    model = make_model(family)
    handle = guide(model, HEADS, weight=0.5)
    with autocast(dtype):
        loss = model(**long_batch).loss
        attention = errors_of_maps(make_model(family), long_batch)
    errors = errors_of(handle)
    assert loss.isfinite()
    assert handle.loss().dtype == torch.float32
    allowed = 2 * typical(attention - exact)
    assert 0 < allowed < 0.02 * typical(exact), "the bound itself must be tight"
    assert typical(errors - exact) <= allowed
    assert handle.loss().item() == pytest.approx(0.5 * errors.sum().item(), rel=1e-6)


@halves
def test_gradients_are_as_exact_as_the_attention(make_model, family, long_batch, dtype):
    model = make_model(family)
    exact = query_and_key_gradients(model, errors_of_maps(model, long_batch).sum())
    with autocast(dtype):
        own = errors_of_maps(model, long_batch).sum()
    allowed = 2 * typical(query_and_key_gradients(model, own, scale=1024.0) - exact)
    assert 0 < allowed < 0.3 * typical(exact), "the bound itself must be tight"
    guided = make_model(family)
    handle = guide(guided, HEADS, weight=1.0)
    with autocast(dtype):
        guided(**long_batch)
    assert typical(query_and_key_gradients(guided, handle.loss(), scale=1024.0) - exact) <= allowed


def train(model, batch, dtype, steps=20):
    """With autocast and GradScaler, as is usual for float16; returns the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    # The default first scale is meant to overflow and skips the first steps.
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16, init_scale=1024.0)
    losses = []
    for _ in range(steps):
        with autocast(dtype):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def fall(model, batch, dtype, weight=1.0):
    """By how much training lets the mean error of the guided heads fall."""
    handle = guide(model, HEADS, weight=weight)
    with handle.measure(), torch.no_grad():
        model(**batch)
    before = errors_of(handle).mean().item()
    losses = train(model, batch, dtype)
    assert all(loss < float("inf") for loss in losses)
    return before - errors_of(handle).mean().item()


def test_errors_fall_as_in_float32(make_model, long_batch):
    """20 steps of AdamW amplify rounding, yet must lead to about the same place."""
    exact = fall(make_model(), long_batch, torch.float32)
    assert exact > 0.25
    assert abs(fall(make_model(), long_batch, torch.float32, weight=0.0)) < 0.1 * exact
    for dtype in HALVES:
        assert fall(make_model(), long_batch, dtype) == pytest.approx(exact, rel=0.02), dtype
    assert fall(make_model().bfloat16(), long_batch, torch.float32) > 0.9 * exact


def test_a_model_in_bfloat16(make_model, family, long_batch):
    exact = errors_of_maps(make_model(family), long_batch)
    attention = errors_of_maps(make_model(family).bfloat16(), long_batch)
    model = make_model(family).bfloat16()
    handle = guide(model, HEADS, weight=1.0)
    output = model(**long_batch)
    assert output.loss.isfinite()
    assert typical(errors_of(handle) - exact) <= 2 * typical(attention - exact)
    output.loss.backward()
    assert all(parameter.grad.dtype == torch.bfloat16 for parameter in model.parameters())


def test_accelerate_in_bfloat16(make_model, family, long_batch):
    """It puts another forward in the model's place, which must not hide from guidance what the arguments are."""
    model, same = make_model(family), make_model(family)
    # Targets that only the token ids tell.
    handle, expected = (
        guide(m, "low:1 next:1", weight=1.0, token_classes={"low": [5, 6, 7, 8]}) for m in (model, same)
    )
    with autocast(torch.bfloat16):
        loss = same(**long_batch).loss
    # Accelerate holds one precision for the whole process, and other tests have theirs.
    AcceleratorState._reset_state(reset_partial_state=True)
    prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    AcceleratorState._reset_state(reset_partial_state=True)
    by_position = [long_batch["input_ids"], long_batch["attention_mask"]]
    for output in (prepared(**long_batch), prepared(*by_position, labels=long_batch["labels"])):
        assert output.loss.item() == pytest.approx(loss.item(), rel=1e-6)
        torch.testing.assert_close(errors_of(handle), errors_of(expected))


def test_trainer_in_bfloat16(make_model, long_batch, tmp_path):
    model = make_model()
    at_start = errors_of_maps(make_model(), long_batch).mean()
    handle = guide(model, HEADS, weight=1.0)
    examples = [{name: tensor[n] for name, tensor in long_batch.items()} for n in range(8)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        bf16=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    Trainer(model=model, args=arguments, train_dataset=examples).train()
    assert errors_of(handle).mean() < 0.7 * at_start


@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
def test_scores_out_of_the_range_of_half_precision(make_model, long_batch, backend):
    """A score of 70,000 is infinite in float16; torch's own attention sums in float32 and is finite there."""
    model = make_model("bert")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".query.weight" in name or ".key.weight" in name:
                parameter.mul_(400)
    handle = guide(model, "next:1 first:1", weight=1.0, backend=backend)
    with autocast(torch.float16):
        model(**long_batch)
    assert all(0 <= head.error <= 2 for head in handle.per_head())
