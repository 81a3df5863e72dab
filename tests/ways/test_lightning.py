"""A guided model within a LightningModule: trains, accumulates, saves, loads and resumes as an unguided one."""

import pytest
import torch

from attention_guidance import Schedule, guide

try:
    import lightning.pytorch as lightning
except ImportError:
    lightning = pytest.importorskip("pytorch_lightning")

HEADS = "next:1 previous:1 first:1"
STEPS = 16

pytestmark = [
    # Of Lightning's own making.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:"),
]


class Guided(lightning.LightningModule):
    def __init__(self, model, weight=1.0, schedule="constant"):
        super().__init__()
        self.model = model
        self.guidance = guide(model, HEADS, weight=weight, schedule=schedule, total_steps=STEPS)
        self.errors = []

    def on_train_batch_start(self, batch, batch_idx):
        # The schedule's place, exact after a resume and under accumulation.
        self.guidance.steps_done = self.trainer.global_step

    def training_step(self, batch):
        loss = self.model(**batch).loss
        self.errors.append(mean_error(self.guidance))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def mean_error(guidance):
    errors = [head.error for head in guidance.per_head()]
    return sum(errors) / len(errors)


@pytest.fixture
def fit(tmp_path, examples):
    """Train a module on CPU and give the Trainer back."""

    def run(module, epochs, batch_size=4, accumulation=2, precision="32-true", resume=None):
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            accumulate_grad_batches=accumulation,
            precision=precision,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, torch.utils.data.DataLoader(examples, batch_size=batch_size), ckpt_path=resume)
        return trainer

    return run


def parameters(module):
    return torch.cat([parameter.detach().flatten() for parameter in module.model.parameters()])


@pytest.mark.parametrize(("family", "precision"), [("bert", "32-true"), ("roberta", "bf16-mixed")])
def test_errors_fall(make_model, fit, family, precision):
    guided, unguided = Guided(make_model(family)), Guided(make_model(family), weight=0.0)
    trainer = fit(guided, 8, precision=precision)
    assert trainer.global_step == 32
    assert len(guided.errors) == 64, "two micro-batches a step"
    assert guided.errors[-1] < 0.75 * guided.errors[0]
    fit(unguided, 8, precision=precision)
    assert unguided.errors[-1] > 0.9 * unguided.errors[0], "without guidance the heads must stay away"


def test_accumulation_is_exact(make_model, family, fit):
    """Two micro-batches of four make the step of one batch of eight, under a schedule too."""
    ends = []
    for batch_size, accumulation in ((8, 1), (4, 2)):
        module = Guided(make_model(family), schedule=Schedule("linear"))
        fit(module, 2, batch_size, accumulation, precision="64-true")
        assert module.guidance.current_weight == pytest.approx(1 - 7 / STEPS)
        ends.append(parameters(module))
    # AdamW makes a full step of the rounding error of a gradient that is zero.
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-8)


def test_a_checkpoint_holds_no_guidance(make_model, family, fit, tmp_path):
    module = Guided(make_model(family))
    fit(module, 1).save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    plain = make_model(family)
    assert checkpoint["state_dict"].keys() == {f"model.{name}" for name in plain.state_dict()}
    plain.load_state_dict({name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()})
    loaded = Guided.load_from_checkpoint(tmp_path / "one.ckpt", model=make_model(family, seed=5))
    assert torch.equal(parameters(loaded), parameters(module))
    ids = torch.arange(5, 21)[None]
    assert torch.equal(plain.eval()(ids).logits, module.model.eval()(ids).logits)
    assert loaded.model.train()(ids, labels=ids).loss > plain(ids, labels=ids).loss + 1, "what is loaded is guided"


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(make_model, family, fit, tmp_path):
    schedule = Schedule("linear", end=10)
    through = Guided(make_model(family), schedule=schedule)
    fit(through, 3)
    fit(Guided(make_model(family), schedule=schedule), 1).save_checkpoint(tmp_path / "one.ckpt")
    resumed = Guided(make_model(family, seed=5), schedule=schedule)
    trainer = fit(resumed, 3, resume=tmp_path / "one.ckpt")
    assert trainer.global_step == 12
    assert resumed.guidance.current_weight == 0
    # After an epoch: within one, Lightning begins the loader anew, guided or not.
    assert resumed.errors == through.errors[8:]
    assert torch.equal(parameters(resumed), parameters(through))
