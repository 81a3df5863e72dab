"""A relative weight is a multiple of the loss of the first step, however that step is split."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch
from test_training_loops import stack, train_with_trainer
from transformers import Trainer, TrainerCallback, TrainingArguments

from attention_guidance import RelativeWeight, Schedule, get_guidance, guide
from attention_guidance.errors import AttachError, ConfigError, GuidanceWarning
from attention_guidance.weight import GuidanceWeight

HEADS = "next:1 previous:1 first@3"
RATIO = 0.02
RELATIVE = RelativeWeight(RATIO)


@pytest.fixture
def model(make_model):
    return make_model("bert").double()


def one_step(model, batches, factor: float = 1.0) -> float:
    """The weight after a step of these micro-batches, whose loss is scaled by a factor."""
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    for batch in batches:
        (factor * model(**batch).loss / len(batches)).backward()
    guidance.step()
    return guidance.weight


def test_it_is_a_multiple_of_the_first_loss(model, batch):
    expected = RATIO * copy.deepcopy(model)(**batch).loss.item()
    assert one_step(model, [batch]) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(RATIO * torch.tensor(64).log().item(), rel=0.3), "about the log of the vocabulary"


def test_the_first_step_trains_the_objective_alone(model, batch):
    plain = copy.deepcopy(model)
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    assert "weight 0.02 x the first loss = not known before the first step (constant)" in str(guidance)
    loss, expected = model(**batch).loss, plain(**batch).loss
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    guidance.step()
    assert f"weight 0.02 x the first loss = {guidance.weight:g} (constant)" in str(guidance)


def test_from_the_second_step_on_it_is_that_number(model, batch):
    absolute = copy.deepcopy(model)
    weight = one_step(model, [batch])
    guide(absolute, HEADS, weight)
    model.zero_grad()
    for one in (model, absolute):
        one(**batch).loss.backward()
    for ours, theirs in zip(model.parameters(), absolute.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    get_guidance(model).step()
    assert get_guidance(model).weight == weight


@pytest.mark.parametrize("factor", [1e-3, 65536.0])
def test_scaling_for_the_backward_pass_changes_nothing(model, batch, factor):
    """As GradScaler and an average over micro-batches do."""
    expected = one_step(copy.deepcopy(model), [batch])
    assert one_step(model, [batch], factor) == pytest.approx(expected, rel=1e-12)


class Scaled(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.encoder, self.factor = encoder, factor

    def forward(self, **inputs):
        return self.factor * self.encoder(**inputs).loss


@pytest.mark.parametrize("factor", [0.02, 50.0, -1.0])
def test_another_scale_of_the_objective(model, batch, factor):
    expected = one_step(copy.deepcopy(model), [batch])
    whole = Scaled(model, factor)
    guidance = guide(whole.encoder, HEADS, RelativeWeight(RATIO), within=whole)
    whole(**batch).backward()
    guidance.step()
    assert guidance.weight == pytest.approx(abs(factor) * expected, rel=1e-12)


def test_micro_batches_are_one_step(model, examples):
    batches = [stack(examples[start : start + 8]) for start in range(0, 32, 8)]
    whole, other = copy.deepcopy(model), copy.deepcopy(model)
    expected = one_step(whole, [stack(examples)])
    assert one_step(model, batches) == pytest.approx(expected, rel=1e-12)
    assert one_step(other, batches[:1]) != pytest.approx(expected, rel=1e-3), "the batches differ"


@pytest.mark.parametrize("variant", ["checkpointing", "looked at", "without gradients"])
def test_what_else_happens_does_not_count(model, batch, variant):
    expected = one_step(copy.deepcopy(model), [batch])
    other = {name: tensor[:2] for name, tensor in batch.items()}
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    if variant == "checkpointing":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif variant == "looked at":
        with guidance.measure():
            model.eval()(**other)
        model.train()
    else:
        with torch.no_grad():
            model(**other)
    model(**batch).loss.backward()
    guidance.step()
    assert guidance.weight == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_is_not_finite_is_none(model, batch):
    """The next step is the first then."""
    expected = one_step(copy.deepcopy(model), [batch])
    whole = Scaled(model, float("nan"))
    guidance = guide(model, HEADS, RelativeWeight(RATIO), within=whole)
    whole(**batch)
    guidance.step()
    assert guidance.weight == 0
    whole.factor = 1.0
    whole(**batch)
    guidance.step()
    assert guidance.weight == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_the_library_does_not_see(model, batch):
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    del batch["labels"]
    model(**batch)
    with pytest.raises(AttachError, match="pass labels to the model, or give the weight as a number"):
        guidance.loss()
    model.eval()(**batch)
    assert guidance.loss() == 0


@pytest.mark.parametrize("parts", [False, True])
def test_the_loss_module_of_a_trainer(model, batch, parts):
    """As in SentenceTransformerTrainer, of one loss or of its parts by name."""

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self):
            mean = self.model.bert(**{name: batch[name] for name in ("input_ids", "attention_mask")})[0].square().mean()
            return {"one": mean, "two": 2 * mean} if parts else 3 * mean

    loss = Loss()
    guidance = guide(model.bert, HEADS, RelativeWeight(RATIO))
    guidance._losses.join_losses_of([loss])
    first = loss()
    assert set(first) == {"one", "two"} if parts else first.dim() == 0
    guidance.step()
    assert guidance.weight == pytest.approx(RATIO * (first["one"].item() * 3 if parts else first.item()), rel=1e-12)
    second = loss()
    added = second["guidance_loss"] if parts else second - first
    assert added.item() == pytest.approx(guidance.loss().item())


def test_a_weight_that_is_set_stays(model, batch):
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    guidance.weight = 0.3
    model(**batch).loss.backward()
    guidance.step()
    assert guidance.weight == 0.3


@pytest.mark.parametrize("factors", [[1.0], [0.5, 2.0, 3.5]])
def test_a_loss_of_several_numbers_counts_as_their_mean(model, batch, factors):
    expected = one_step(copy.deepcopy(model), [batch])
    whole = Scaled(model, torch.tensor(factors, dtype=torch.float64))
    whole.register_forward_hook(lambda module, args, output: {"loss": output})
    guidance = guide(model, HEADS, RelativeWeight(RATIO), within=whole)
    whole(**batch)["loss"].sum().backward()
    guidance.step()
    assert guidance.weight == pytest.approx(expected * sum(factors) / len(factors), rel=1e-12)


def test_a_copy_has_its_own(model, batch):
    guide(model, HEADS, RelativeWeight(RATIO))
    other = copy.deepcopy(model)
    other(**batch).loss.backward()
    get_guidance(other).step()
    assert get_guidance(other).weight > 0
    assert get_guidance(model).weight == 0


class Stops(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_save = state.global_step == self.step


def trained(make_model, examples, folder, stops=None, resumes=None, weight=RELATIVE, **settings):
    model = make_model("bert")
    guidance = guide(model, HEADS, weight, schedule=Schedule("linear"))
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=8, per_device_train_batch_size=4, save_strategy="no", report_to="none",
        disable_tqdm=True, use_cpu=True, learning_rate=3e-3, logging_steps=1, **settings,
    )  # fmt: skip
    callbacks = [guidance.callback(), *([Stops(stops)] if stops else [])]
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=stack, callbacks=callbacks)
    trainer.train(resume_from_checkpoint=resumes)
    return guidance, model.state_dict(), trainer


@pytest.mark.parametrize("step", [1, 5])
def test_trainer_resumes_bit_by_bit(make_model, examples, tmp_path, step):
    guidance, weights, trainer = trained(make_model, examples, tmp_path / "whole")
    kept = [entry for entry in trainer.state.log_history if "guidance_full_weight" in entry]
    assert kept == [{"step": 1, "guidance_full_weight": guidance.weight, "guidance_ratio": RATIO}]
    logged = [entry["guidance_weight"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx([guidance.weight * (1 - done / 8) for done in range(1, 9)])
    trained(make_model, examples, tmp_path / "halved", stops=step)
    resumed, same, _ = trained(
        make_model, examples, tmp_path / "halved", resumes=str(tmp_path / "halved" / f"checkpoint-{step}")
    )
    assert resumed.weight == guidance.weight
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_resume_keeps_a_weight_that_is_given_as_a_number(make_model, examples, tmp_path):
    trained(make_model, examples, tmp_path, stops=2)
    resumed, _, _ = trained(make_model, examples, tmp_path, resumes=str(tmp_path / "checkpoint-2"), weight=0.3)
    assert resumed.weight == 0.3


def test_a_resume_with_another_ratio_is_refused(make_model, examples, tmp_path):
    begun, _, _ = trained(make_model, examples, tmp_path, stops=2)
    message = rf"RelativeWeight\(ratio=0\.04\): .* began with RelativeWeight\(ratio=0\.02\).* {begun.weight:g};"
    with pytest.raises(ConfigError, match=message):
        trained(make_model, examples, tmp_path, resumes=str(tmp_path / "checkpoint-2"), weight=RelativeWeight(0.04))


def test_a_resume_from_before_ratios_were_saved(make_model, examples, tmp_path):
    begun, _, _ = trained(make_model, examples, tmp_path, stops=2)
    file = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    assert [entry.pop("guidance_ratio") for entry in state["log_history"] if "guidance_ratio" in entry] == [RATIO]
    file.write_text(json.dumps(state))
    resumed, _, _ = trained(make_model, examples, tmp_path, resumes=str(tmp_path / "checkpoint-2"))
    assert resumed.weight == begun.weight


def test_a_resume_of_a_run_without_a_relative_weight_gives_a_warning(make_model, examples, tmp_path):
    """Its first loss is not known, so that of the next step takes its place."""
    trained(make_model, examples, tmp_path, stops=2, weight=0.3)
    with pytest.warns(GuidanceWarning, match=r"RelativeWeight\(ratio=0\.02\).* multiple of the loss of step 3;"):
        resumed, _, _ = trained(make_model, examples, tmp_path, resumes=str(tmp_path / "checkpoint-2"))
    assert resumed.weight > 0


def test_a_number_that_is_set_survives_a_resume(make_model, examples, tmp_path):
    begun, _, trainer = trained(make_model, examples, tmp_path, stops=2)
    begun.weight = 0.3
    assert "weight 0.3 (linear" in str(begun)
    trainer.callback_handler.callbacks = [one for one in trainer.callback_handler.callbacks if type(one) is not Stops]
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert begun.steps_done == 8
    assert begun.weight == 0.3


@pytest.mark.parametrize("uneven", [False, True])
def test_accumulation_under_trainer(make_model, examples, tmp_path, uneven):
    """The loss is the mean over the labels of the whole step, also if micro-batches have different numbers of them."""
    for example in examples[:2] if uneven else ():
        example["labels"] = example["labels"].clone()
        example["labels"][:12] = -100
    expected = RATIO * make_model("bert").double()(**stack(examples[:8])).loss.item()
    for accumulation in (1, 4):
        model = make_model("bert").double()
        guidance = guide(model, HEADS, RelativeWeight(RATIO))
        train_with_trainer(model, examples, tmp_path, accumulation, steps=3, callbacks=[guidance.callback()])
        assert guidance.weight == pytest.approx(expected, rel=1e-6)


def train(model, batch, optimizer, after_step=lambda: None) -> None:
    for _ in range(5):
        model(**batch).loss.backward()
        optimizer.step()
        after_step()


def test_never_stepped_gives_a_warning(make_model, batch):
    model = make_model()
    guide(model, HEADS, RelativeWeight(RATIO))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with pytest.warns(GuidanceWarning, match=r"which never ended.*guidance\.step\(\)"):
        train(model, batch, optimizer)


def test_stepped_gives_none(make_model, batch):
    model = make_model()
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GuidanceWarning)
        train(model, batch, optimizer, guidance.step)


def test_torch_compile_is_refused_in_the_first_step(model, batch):
    guidance = guide(model, HEADS, RelativeWeight(RATIO))
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(Exception, match="cannot be read under torch"):
        compiled(**batch)
    torch.compiler.reset()
    model(**batch).loss.backward()
    guidance.step()
    assert torch.compile(model, backend="eager")(**batch).loss.item() == pytest.approx(model(**batch).loss.item())


@pytest.mark.parametrize("ratio", [0, -1, float("inf"), "x", None, True])
def test_other_ratios_are_refused(ratio):
    with pytest.raises(ConfigError, match=r"weight|RelativeWeight"):
        RelativeWeight(ratio)


def test_shares_of_micro_batches_are_exact_in_half_precision():
    """A third is not a number of bfloat16: rounded to it, the weight would be 0.2 % off."""
    weight = GuidanceWeight(RELATIVE, Schedule("constant"))
    weight.see(torch.tensor(2.0, dtype=torch.bfloat16), torch.tensor(1 / 3))
    weight.end_step(torch.device("cpu"))
    assert weight.full == pytest.approx(RATIO * 2 * 3, rel=1e-6)
