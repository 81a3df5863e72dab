"""Several processes under torchrun train what one trains, also after one of them was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import spoiled
import torch
import watched
from transformers import AutoModelForMaskedLM, Trainer

import attention_guidance
from benchmarks import forked

# Long beside the quarter of a minute of a run, so that a hang fails instead of blocking.
TIMEOUT = 180
STEPS = 200
_PROGRAM = ("-m", "attention_guidance")


@pytest.fixture(scope="module")
def command(arguments: list[str]) -> list[str]:
    """A guided run without dropout, in full precision, so that its losses can be compared."""
    run = [*arguments, "--dropout", "0", "--precision", "fp32", "--batch-size", "8", "--accumulation", "1"]
    return [*run, "--max-steps", str(STEPS), "--save-every", "20", "--eval-every", "40", "--keep-checkpoints", "1"]


@pytest.fixture(scope="module")
def alone(command, cli, tmp_path_factory) -> list[float]:
    """The validation losses of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert cli("pretrain", *command, "-o", folder, "-q") == 0
    return losses_in(folder)


def losses_in(folder: Path) -> list[float]:
    return [point["loss"] for point in json.loads((folder / "results.json").read_text())["curve"]]


def launch(n: int, *arguments: object, program: Sequence[str] = _PROGRAM) -> subprocess.Popen[str]:
    package = Path(attention_guidance.__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command = [*torchrun, *program, *map(str, arguments)]
    return forked.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        said, complained = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate()
        pytest.fail(f"no end after {TIMEOUT} s: {said[-2000:]} {complained[-2000:]}")
    return process.returncode, said, complained


@pytest.mark.parametrize(("n", "accumulation"), [(2, 2), (4, 1)])
def test_the_curve_is_that_of_one_process(command, alone, tmp_path, n, accumulation):
    code, said, complained = finish(
        launch(n, "pretrain", *command, "--accumulation", accumulation, "-o", tmp_path / "run")
    )
    assert code == 0, complained[-3000:]
    assert losses_in(tmp_path / "run") == pytest.approx(alone, rel=1e-4)
    # One of them talks.
    assert said.count("packing") == 1
    assert said.count(f"step {STEPS}/{STEPS}") == 1


@pytest.mark.parametrize(("what", "process"), [("loss", 1), ("gradient", 1), ("gradient", 0)])
def test_all_skip_the_step_that_is_not_finite_in_one(command, cli, tmp_path, monkeypatch, what, process):
    """Otherwise their weights would drift apart, without a word."""
    short = [*command, "--max-steps", "40", "--eval-every", "10"]
    code, _, complained = finish(
        launch(2, what, process, 6, "pretrain", *short, "-o", tmp_path / "two", "-q", program=(spoiled.__file__,))
    )
    assert code == 0, complained[-3000:]
    monkeypatch.setattr(spoiled, "what", what, raising=False)
    monkeypatch.setattr(spoiled, "process", 0, raising=False)
    monkeypatch.setattr(spoiled, "step", 6, raising=False)
    monkeypatch.setattr(Trainer, "training_step", spoiled.spoiled)
    assert cli("pretrain", *short, "-o", tmp_path / "one", "-q") == 0
    assert losses_in(tmp_path / "two") == pytest.approx(losses_in(tmp_path / "one"), rel=1e-4)
    for run in ("one", "two"):
        assert json.loads((tmp_path / run / "results.json").read_text())["skipped_steps"] == 1


def test_in_shares_the_curve_is_that_of_one_process(command, alone, tmp_path):
    folder = tmp_path / "run"
    arguments = [*command, "--accumulation", "2", "-o", folder, "-q"]
    code, _, complained = finish(launch(2, "pretrain", *arguments, "--shard", program=(watched.__file__,)))
    assert code == 0, complained[-3000:]
    assert losses_in(folder) == pytest.approx(alone, rel=1e-4)
    for number in range(2):
        held = json.loads((folder / f"held-{number}.json").read_text())
        # Not half to the last digit, as rows are not divided.
        assert held == {"parameters": pytest.approx(0.5, abs=0.05), "moments": pytest.approx(0.5, abs=0.05)}
    # What is written is whole.
    model = AutoModelForMaskedLM.from_pretrained(folder / "model")
    kept = AutoModelForMaskedLM.from_pretrained(folder / "checkpoints" / f"checkpoint-{STEPS}")
    assert model.state_dict().keys() == kept.state_dict().keys()
    assert all(torch.equal(weight, kept.state_dict()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(("before", "after"), [(["--shard"], []), ([], ["--shard"])])
def test_one_is_killed_and_fewer_go_on(command, alone, tmp_path, before, after):
    folder = tmp_path / "run"
    whole = launch(4, "pretrain", *command, *before, "-o", folder, "-q", "--resume")
    end = time.monotonic() + TIMEOUT
    while not (folder / "checkpoints" / "checkpoint-20").exists():
        assert whole.poll() is None, whole.communicate()[1][-3000:]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(workers_of(whole.pid)[-1], signal.SIGKILL)
    code, _, complained = finish(whole)
    assert code != 0
    assert "SIGKILL" in complained
    assert not (folder / "results.json").exists()
    code, _, complained = finish(launch(2, "pretrain", *command, *after, "-o", folder, "-q", "--resume"))
    assert code == 0, complained
    assert json.loads((folder / "results.json").read_text())["resumed_from"] >= 20
    assert losses_in(folder) == pytest.approx(alone, rel=1e-4)


def workers_of(torchrun: int) -> list[int]:
    """The processes that torchrun has started, each in a session of its own; see `forked` for whose children they are.

    They are forked by the server that forked torchrun or, where torchrun was started anew, its own children.
    """
    server = int(Path(f"/proc/{torchrun}/stat").read_text().rpartition(")")[2].split()[1])
    return leaders_of(torchrun) or leaders_of(server)


def leaders_of(parent: int) -> list[int]:
    """The children of a process that lead a session."""
    children = [
        int(n) for task in Path(f"/proc/{parent}/task").iterdir() for n in (task / "children").read_text().split()
    ]
    return sorted(number for number in children if os.getsid(number) == number)


def test_wrong_input_is_told_once(command, tmp_path):
    code, _, complained = finish(launch(3, "pretrain", *command, "-o", tmp_path / "run", "-q"))
    assert code != 0
    assert complained.count("error: --batch-size 8: must be a multiple of --accumulation 1 times 3 processes") == 1
    assert not (tmp_path / "run").exists()


def test_shares_are_for_several(command, tmp_path, cli, capsys):
    assert cli("pretrain", *command, "--shard", "-o", tmp_path / "run", "-q") == 2
    assert "error: --shard: there is only one process to shard over; start several" in capsys.readouterr().err


def test_compare_is_for_one(command, tmp_path, cli, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli("compare", *command, "-o", tmp_path / "run", "-q") == 2
    assert "compare trains in one process" in capsys.readouterr().err
