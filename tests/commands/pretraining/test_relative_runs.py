"""Runs with a relative weight: known for every objective, written down, exact after a resume."""

from __future__ import annotations

import json

import pytest
import torch
from test_objectives import EVERY, _StopAfter

from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder

# None: the weight of these small runs is left out.
RELATIVE = {"relative_weight": 0.02, "weight": None}


@pytest.mark.parametrize("objective", EVERY)
def test_of_every_objective(run_of, objective):
    weights = []
    for ratio in (0.02, 0.04):
        run = run_of(objective, **RELATIVE | {"relative_weight": ratio, "max_steps": 2, "eval_every": 1})
        assert [part.weight for part in run.guidance.values()] == [0]
        assert run.train()
        summary = run.finish()
        assert list(summary["guidance_weight"]) == ["discriminator" if objective == "rtd" else "model"]
        weights += summary["guidance_weight"].values()
        assert f"relative weight {ratio:g}, " in (run.folder.path / "model" / "README.md").read_text()
    assert weights[0] > 0
    assert weights[1] == pytest.approx(2 * weights[0], rel=1e-6), "the same first step"


def test_it_grows_with_the_weight_of_the_discriminator_s_loss(run_of):
    def weight(of_loss: float) -> float:
        run = run_of("rtd", **RELATIVE, max_steps=1, eval_every=1, dropout=0.0)
        run.model.discriminator_weight = of_loss
        assert run.train()
        return run.guidance["discriminator"].weight

    none, one, fifty = map(weight, (0.0, 1.0, 50.0))
    assert fifty - none == pytest.approx(50 * (one - none), rel=1e-4)
    # Before training, the discriminator has a loss of about log 2, and the generator one of the log of the vocabulary.
    assert one - none == pytest.approx(0.02 * 0.69, rel=0.1)
    assert none == pytest.approx(0.02 * 5.6, rel=0.1)


def test_accumulation_finds_the_same(run_of):
    weights = []
    for accumulation in (1, 2):
        run = run_of("mlm", **RELATIVE, max_steps=1, accumulation=accumulation, dropout=0.0, eval_every=1)
        assert run.train()
        weights.append(run.guidance[""].weight)
    assert weights[1] == pytest.approx(weights[0], rel=1e-5)


@pytest.mark.parametrize(("objective", "more"), [("mlm", {}), ("rtd", {"guided_part": "both", "heads": "next:1"})])
def test_a_stopped_run_goes_on_exactly(settings, tmp_path, objective, more):
    config = settings(objective, **RELATIVE, max_steps=6, save_every=2, eval_every=3, dropout=0.1, **more)
    data = prepare_data(config, lambda said: None)
    whole = Run(config, data, RunFolder(tmp_path / "whole"))
    assert whole.train()
    halved = Run(config, data, RunFolder(tmp_path / "halved"))
    halved.trainer.add_callback(_StopAfter(4))
    assert not halved.train()
    state = json.loads((tmp_path / "halved/checkpoints/checkpoint-4/trainer_state.json").read_text())
    kept = [entry for entry in state["log_history"] if any("guidance_full_weight" in name for name in entry)]
    assert len(kept) == len(whole.guidance)
    resumed = Run(config, data, RunFolder(tmp_path / "halved"))
    assert resumed.train()
    assert resumed.resumed_from == 4
    weights = {part: guidance.weight for part, guidance in whole.guidance.items()}
    assert min(weights.values()) > 0
    assert {part: guidance.weight for part, guidance in resumed.guidance.items()} == weights
    for name, theirs in whole.model.state_dict().items():
        assert torch.equal(theirs, resumed.model.state_dict()[name]), name
