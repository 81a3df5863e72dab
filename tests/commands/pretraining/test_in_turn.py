"""Runs trained in turn compute what each computes alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from attention_guidance.commands.cli import _parser
from attention_guidance.commands.pretraining.loop.in_turn import GiveTurn, train_in_turn
from attention_guidance.commands.pretraining.preparation.prepare import PreparedData, prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config


@pytest.fixture
def config(arguments: list[str]) -> RunConfig:
    flags = vars(_parser().parse_args(["pretrain", *arguments, "-o", "unused"]))
    settings = {field.name: flags[field.name] for field in dataclasses.fields(RunConfig) if field.name in flags}
    return make_config(settings | {"max_steps": 23, "save_every": 10})


@pytest.fixture
def data(config: RunConfig) -> PreparedData:
    return prepare_data(config, lambda text: None)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def alone(config: RunConfig, data: PreparedData, folder: Path) -> dict[str, torch.Tensor]:
    run = Run(config, data, RunFolder(folder))
    assert run.train()
    return weights(run)


@pytest.mark.parametrize("stretch", [1, 5])
def test_in_turn_as_alone(config, data, tmp_path, stretch):
    configs = [config, dataclasses.replace(config, heads=""), dataclasses.replace(config, seed=2, max_steps=12)]
    expected = [alone(one, data, tmp_path / f"alone-{n}") for n, one in enumerate(configs)]
    assert not same(expected[0], expected[1]), "guidance must change something"
    order: list[int] = []

    class Noted(GiveTurn):
        def on_step_end(self, args, state, control, **kwargs):
            order.append(int(args.output_dir.split("-")[-1].split("/")[0]))
            super().on_step_end(args, state, control, **kwargs)

    runs = [Run(one, data, RunFolder(tmp_path / f"turn-{n}"), [Noted(stretch)]) for n, one in enumerate(configs)]
    torch.rand(5)
    assert train_in_turn(runs) == [True, True, True]
    assert order[: 3 * stretch] == [0] * stretch + [1] * stretch + [2] * stretch
    assert [same(weights(run), theirs) for run, theirs in zip(runs, expected, strict=True)] == [True, True, True]


def test_what_a_run_raises_comes_through():
    class Fails:
        def train(self) -> bool:
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        train_in_turn([Fails()])


@pytest.mark.parametrize("line_by_line", [False, True])
def test_accumulation_changes_nothing_without_guidance_either(config, tmp_path, line_by_line):
    config = dataclasses.replace(config, dropout=0.0, line_by_line=line_by_line, max_grad_norm=0.1, heads="")
    data = prepare_data(config, lambda text: None)
    by_accumulation = []
    for accumulation in (1, 2, 4):
        run = Run(dataclasses.replace(config, accumulation=accumulation), data, RunFolder(tmp_path / f"{accumulation}"))
        run.train()
        logs = [entry for entry in run.trainer.state.log_history if "grad_norm" in entry]
        by_accumulation.append([value for entry in logs for value in (entry["loss"], entry["grad_norm"])])
    for other in by_accumulation[1:]:
        assert other == pytest.approx(by_accumulation[0], rel=1e-3)


def test_weight_0_trains_as_no_guidance_at_all(config, data, tmp_path):
    without = alone(dataclasses.replace(config, heads=""), data, tmp_path / "without")
    assert same(alone(dataclasses.replace(config, weight=0.0), data, tmp_path / "weight-0"), without)
