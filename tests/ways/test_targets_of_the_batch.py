"""Targets that come with the batch, through models as people call them and through Trainer."""

import inspect

import eager_maps
import encoders
import pytest
import torch
from transformers import BertForMaskedLM, RobertaForMaskedLM, Trainer, TrainingArguments

from attention_guidance import guide
from attention_guidance.errors import PatternError
from attention_guidance.patterns import GIVEN

SHAPES = ["one", "several", "map"]


def random_targets(shape: str, size=(3, 10)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    if shape == "map":
        return torch.rand(*size, size[1], generator=generator) < 0.2
    return torch.randint(-2, size[1], (*size, 3) if shape == "several" else size, generator=generator)


def definition(given, mask):
    """Which keys a tensor gives to a query, without padding."""

    def targets(b, i):
        row = given[b, i]
        keys = row.nonzero() if row.dtype == torch.bool else row[row >= 0]
        return [j for j in sorted(set(keys.flatten().tolist())) if mask[b, j]]

    return targets


@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert", "DistilBert"])
def test_loss_and_gradients_are_those_of_the_eager_maps(name, shape, backend):
    model, inputs = encoders.make(name)
    given = random_targets(shape)
    handle = guide(model, "0-1: given:2", weight=1.0, backend=backend)
    model(**inputs, guidance_targets=given)
    handle.loss().backward()
    plain, _ = encoders.make(name)
    mask = inputs["attention_mask"].bool()
    heads = {(layer, head): definition(given, mask) for layer in range(2) for head in range(2)}
    expected = eager_maps.guidance(plain, inputs, heads, mask)
    expected.backward()
    tolerance = 1e-5 if name == "ModernBert" else 1e-9  # its eager softmax is in float32
    assert handle.loss().item() == pytest.approx(expected.item(), abs=tolerance)
    eager_maps.assert_same_gradients(model, plain, tolerance)


def test_a_mapping_of_two():
    model, inputs = encoders.make("Bert")
    given = {"head": random_targets("one"), "span": random_targets("map")}
    handle = guide(model, "given.head:1 given.span:1 next|given.head:1", weight=1.0)
    model(**inputs, guidance_targets=given)
    plain, _ = encoders.make("Bert")
    mask = inputs["attention_mask"].bool()
    head, span = (definition(given[key], mask) for key in given)

    def either(b, i):
        return sorted({*head(b, i), *([i + 1] if i < 9 and mask[b, i + 1] else [])})

    heads = {(layer, n): d for layer in range(2) for n, d in enumerate((head, span, either))}
    expected = eager_maps.guidance(plain, inputs, heads, mask)
    assert handle.loss().item() == pytest.approx(expected.item(), abs=1e-9)
    assert [head.pattern for head in handle.per_head()][:3] == ["given.head", "given.span", "next|given.head"]


def test_each_batch_has_its_own():
    model, inputs = encoders.make("Bert")
    handle = guide(model, "given:1")
    losses = []
    for targets in (torch.full((3, 10), 0), torch.full((3, 10), 1), torch.full((3, 10), 0)):
        model(**inputs, guidance_targets=targets)
        losses.append(handle.loss().item())
    assert losses[0] == losses[2] != losses[1]


class Strict(RobertaForMaskedLM):
    """A model that takes what it knows and nothing else."""

    def forward(self, input_ids, attention_mask=None, labels=None):
        return super().forward(input_ids, attention_mask, labels=labels)


class Curious(BertForMaskedLM):
    """A model that would let anything through, and remembers it."""

    def forward(self, input_ids, attention_mask=None, labels=None, **kwargs):
        self.seen = kwargs
        return super().forward(input_ids, attention_mask, labels=labels, **kwargs)


@pytest.mark.parametrize("model_class", [Strict, Curious])
def test_the_model_never_sees_them(make_model, batch, model_class):
    given = random_targets("one", batch["input_ids"].shape)
    family = "bert" if model_class is Curious else "roberta"
    torch.manual_seed(0)
    model = model_class(make_model(family).config).train()
    plain = model_class(make_model(family).config).train()
    plain.load_state_dict(model.state_dict())
    handle = guide(model, "given:1", weight=0.5)
    objective = plain(**batch).loss.item()
    output = model(**batch, guidance_targets=given)
    assert output.loss.item() == pytest.approx(objective + handle.loss().item())
    assert GIVEN not in getattr(model, "seen", {})
    # Nor where there is nothing to guide: in evaluation mode, measured or not, and at weight 0.
    with torch.no_grad(), handle.measure():
        model.eval()(**batch, guidance_targets=given)
    assert model(**batch, guidance_targets=given).loss.item() == pytest.approx(objective)
    handle.weight = 0.0
    assert model.train()(**batch, guidance_targets=given).loss.item() == pytest.approx(objective)
    assert GIVEN not in getattr(model, "seen", {})
    assert GIVEN not in inspect.signature(model.forward).parameters
    # Evaluation without targets is fine, training is not.
    model.eval()(**batch)
    with pytest.raises(PatternError, match="needs guidance_targets in each batch"):
        model.train()(**batch)


def examples(mapping: bool):
    """Sequences in which each token is to look at the one two places before."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(16):
        ids = torch.randint(5, 64, (12,), generator=generator)
        labels = ids.masked_fill(torch.arange(12) % 3 != 0, -100)
        before, other = torch.arange(-2, 10), torch.arange(12).flip(0)
        targets = {"before": before, "mirror": other} if mapping else before
        made.append({"input_ids": ids, "labels": labels, GIVEN: targets})
    return made


def collate(rows):
    if not isinstance(rows[0], dict):
        return torch.stack(rows)
    return {key: collate([row[key] for row in rows]) for key in rows[0]}


def trainer(model, folder, mapping=False, **arguments):
    arguments = TrainingArguments(
        str(folder),
        max_steps=25,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        logging_steps=100,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **arguments,
    )
    rows = examples(mapping)
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4], data_collator=collate)


@pytest.mark.parametrize(("heads", "mapping"), [("given:2", False), ("given.before:1 given.mirror:1", True)])
def test_trainer(make_model, family, tmp_path, heads, mapping):
    model = make_model(family, num_hidden_layers=1)
    handle = guide(model, heads, weight=1.0)
    run = trainer(model, tmp_path, mapping, remove_unused_columns=False)
    with handle.measure():
        before = run.evaluate()["eval_loss"]
    untrained = [head.error for head in handle.per_head()]
    run.train()
    with handle.measure():
        run.evaluate()
    trained = [head.error for head in handle.per_head()]
    assert all(after < 0.7 * first for first, after in zip(untrained, trained, strict=True))
    handle.remove()
    for row in run.eval_dataset:
        row.pop(GIVEN)
    assert before > 0
    assert run.evaluate()["eval_loss"] > 0


def test_trainer_that_drops_them_is_told_how_not_to(make_model, tmp_path):
    """Trainer drops what the model's forward does not name, without a warning."""
    model = make_model()
    guide(model, "given:1")
    with pytest.raises(
        PatternError, match=r"Trainer drops it unless TrainingArguments has remove_unused_columns=False"
    ):
        trainer(model, tmp_path).train()
