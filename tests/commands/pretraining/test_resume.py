"""A run that is stopped, by whatever, and resumed ends with exactly the weights of one that was never stopped."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import assert_same_weights, one_line

from attention_guidance.commands.pretraining.saving.checkpoints import checkpoints, damage, step_of
from benchmarks import forked

COMMAND = [sys.executable, "-m", "attention_guidance"]
# The same command, dead in the middle of saving a checkpoint: arguments are the step and the function it dies in.
DYING = """
import os, sys
from attention_guidance.commands.pretraining.saving import checkpoints
step, name = sys.argv[1], sys.argv[2]
original = getattr(checkpoints, name)
def dying(path):
    if any(f"checkpoint-{step}" in str(p) for p in (path, *path.glob("partial/*"))):
        os.kill(os.getpid(), 9)
    return original(path)
setattr(checkpoints, name, dying)
from attention_guidance.commands.cli import main
main(sys.argv[3:])
"""


def last_step(folder: Path) -> int:
    return max(map(step_of, checkpoints(folder / "checkpoints")), default=-1)


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while last_step(folder) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def start(arguments: list[str]) -> Callable[..., subprocess.Popen[str]]:
    def begin(folder: Path, *command: str) -> subprocess.Popen[str]:
        line = [*(command or COMMAND), "pretrain", *arguments, "-o", str(folder), "-q", "--resume"]
        return forked.Popen(line, stderr=subprocess.PIPE, text=True)

    return begin


@pytest.fixture(scope="session")
def terminated(tmp_path_factory: pytest.TempPathFactory, arguments: list[str]) -> tuple[Path, int, str]:
    """A run stopped by SIGTERM in its second epoch: folder, exit code, what it said."""
    folder = tmp_path_factory.mktemp("terminated") / "run"
    line = [*COMMAND, "pretrain", *arguments, "-o", str(folder), "-q"]
    process = forked.Popen(line, stderr=subprocess.PIPE, text=True)
    wait_for_step(process, folder, 30)
    process.terminate()
    _, said = process.communicate(timeout=120)
    return folder, process.returncode, said


@pytest.fixture
def stopped(terminated: tuple[Path, int, str], tmp_path: Path) -> Path:
    """A copy of that run's folder, to do with as one likes."""
    return Path(shutil.copytree(terminated[0], tmp_path / "run"))


def test_killed_at_random_moments(start, arguments, cli, whole_run, tmp_path):
    folder = tmp_path / "run"
    chance = random.Random(20201002)
    # (a checkpoint to wait for before the kill) or (a checkpoint to die in, the function to die in)
    kills = [(6,), (15, "_seal"), (27,), (36, "_sync"), (51,)]
    reached = []
    for step, *where in kills:
        if where:
            process = start(folder, sys.executable, "-c", DYING, str(step), where[0])
        else:
            process = start(folder)
            wait_for_step(process, folder, step)
            time.sleep(chance.uniform(0, 0.08))
            process.kill()
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        reached.append(last_step(folder))
        if where:
            assert reached[-1] == step - 3, "it was to die before that checkpoint was whole"
            assert list((folder / "checkpoints" / "partial").iterdir())
    assert sorted(reached) == reached
    assert reached[-1] < 60
    assert not (folder / "model").exists()
    assert cli("pretrain", *arguments, "-o", folder, "-q", "--resume") == 0
    assert_same_weights(folder, whole_run)
    results, whole = (json.loads((path / "results.json").read_text()) for path in (folder, whole_run))
    assert results["resumed_from"] == reached[-1]
    losses, whole_losses = ([(p["step"], p["loss"]) for p in r["curve"]] for r in (results, whole))
    assert losses == whole_losses
    seconds = [point["seconds"] for point in results["curve"]]
    assert sorted(set(seconds)) == seconds


def test_sigterm(terminated, stopped, arguments, cli, whole_run):
    _, code, said = terminated
    step = last_step(stopped)
    assert code == 128 + signal.SIGTERM
    assert one_line(said) == (
        f"error: stopped by SIGTERM after step {step}, checkpoint saved; run the same command with --resume to continue"
    )
    assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume") == 0
    assert_same_weights(stopped, whole_run)


def test_sigterm_to_the_whole_job(arguments, cli, whole_run, tmp_path):
    """As batch systems send it: to the processes that load data, too."""
    folder = tmp_path / "run"
    line = [*COMMAND, "pretrain", *arguments, "-o", str(folder), "-q", "--set", "dataloader_num_workers=2"]
    process = forked.Popen(line, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for_step(process, folder, 6)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert one_line(said).startswith("error: stopped by SIGTERM after step")
    assert cli("pretrain", "-o", folder, "-q", "--resume", "--set", "dataloader_num_workers=0") == 0
    assert_same_weights(folder, whole_run)


def test_ctrl_c(arguments, cli, whole_run, tmp_path, capfd):
    folder = tmp_path / "run"

    def interrupt() -> None:
        while last_step(folder) < 27:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = cli("pretrain", *arguments, "-o", folder, "-q")
    thread.join()
    assert code == 130
    assert one_line(capfd.readouterr().err).startswith("error: stopped by SIGINT after step")
    assert damage(checkpoints(folder / "checkpoints")[-1]) is None
    assert cli("pretrain", *arguments, "-o", folder, "-q", "--resume") == 0
    assert_same_weights(folder, whole_run)


@pytest.mark.parametrize("limit", [1_000, 100_000], ids=["nothing fits", "the model fits, the optimizer does not"])
def test_disk_full_during_a_save(limit, stopped, arguments, cli, whole_run, capfd):
    before = last_step(stopped)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        code = cli("pretrain", *arguments, "-o", stopped, "-q", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert code == 1
    line = one_line(capfd.readouterr().err)
    assert line.startswith("error: could not save checkpoint-")
    assert line.endswith(f"the last good checkpoint is {stopped}/checkpoints/checkpoint-{before}")
    assert damage(stopped / "checkpoints" / f"checkpoint-{before}") is None
    assert not (stopped / "checkpoints" / "partial").exists()
    assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume") == 0
    assert_same_weights(stopped, whole_run)


def test_disk_full_at_the_end(arguments, cli, whole_run, tmp_path, capfd, monkeypatch):
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    shutil.rmtree(folder / "model")
    (folder / "results.json").unlink()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("attention_guidance.commands.pretraining.saving.checkpoints._seal", full)
        assert cli("pretrain", *arguments, "-o", folder, "-q", "--resume") == 1
    assert one_line(capfd.readouterr().err).startswith(f"error: could not save the model in {folder}: [Errno 28]")
    assert not (folder / "model").exists()
    assert cli("pretrain", *arguments, "-o", folder, "-q", "--resume") == 0
    assert_same_weights(folder, whole_run)
    results = json.loads((folder / "results.json").read_text())
    assert results["step_seconds_p50"] > 0


def test_a_damaged_checkpoint_is_passed_over(stopped, arguments, cli, whole_run, caplog):
    older, newest = checkpoints(stopped / "checkpoints")
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume") == 0
    assert f"{newest} is damaged (model.safetensors has changed)" in caplog.text
    assert json.loads((stopped / "results.json").read_text())["resumed_from"] == step_of(older)
    assert_same_weights(stopped, whole_run)


def test_only_damaged_checkpoints(stopped, arguments, cli, capsys):
    for checkpoint in checkpoints(stopped / "checkpoints"):
        (checkpoint / "optimizer.pt").write_bytes(b"")
    assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume") == 2
    assert "every checkpoint in" in capsys.readouterr().err


def test_what_a_resume_refuses(stopped, arguments, corpus, cli, capsys, tmp_path):
    assert cli("pretrain", *arguments, "-o", stopped, "-q") == 2
    ways = "continue it with --resume, replace it with --overwrite"
    assert f"holds a run already; {ways}" in one_line(capsys.readouterr().err)
    assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume", "--learning-rate", "0.002") == 2
    assert "holds a run with --learning-rate 0.001, not 0.002" in one_line(capsys.readouterr().err)
    assert cli("compare", *arguments, "-o", stopped, "-q", "--resume") == 2
    assert f"--output {stopped} holds a run; give another folder" in one_line(capsys.readouterr().err)
    text = corpus.read_text()
    try:
        corpus.write_text(text.replace("a", "b", 1))
        assert cli("pretrain", *arguments, "-o", stopped, "-q", "--resume") == 2
    finally:
        corpus.write_text(text)
    assert "has changed since the run" in one_line(capsys.readouterr().err)


def test_resumed_alone_it_takes_its_own_settings(stopped, cli, whole_run):
    assert cli("pretrain", "-o", stopped, "--resume", "-q") == 0
    assert_same_weights(stopped, whole_run)


@pytest.mark.parametrize(
    "given",
    [
        ["--accumulation", "4"],
        ["--accumulation", "1", "--set", "per_device_eval_batch_size=3"],
        ["--set", "gradient_checkpointing=true"],
    ],
)
def test_what_saves_memory_may_change(plain, cli, tmp_path, given):
    """The losses stay the same to rounding; without dropout, whose draws are of a pass."""
    whole, halved = plain
    folder = Path(shutil.copytree(halved, tmp_path / "run"))
    assert cli("pretrain", "-o", folder, "--resume", "-q", *given) == 0
    results, expected = (json.loads((path / "results.json").read_text()) for path in (folder, whole))
    assert results["resumed_from"] == last_step(halved) < 60
    losses, whole_losses = ([point["loss"] for point in of["curve"]] for of in (results, expected))
    assert losses == pytest.approx(whole_losses, rel=1e-4)


@pytest.fixture(scope="session")
def plain(tmp_path_factory, arguments, cli) -> tuple[Path, Path]:
    """A run without dropout in full precision, and the same stopped half-way."""
    folder = tmp_path_factory.mktemp("plain")
    given = [*arguments, "--dropout", "0", "--precision", "fp32", "-q", "-o"]
    assert cli("pretrain", *given, folder / "whole") == 0
    shutil.copytree(folder / "whole", folder / "halved")
    for name in ("model", "results.json"):
        path = folder / "halved" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / "halved" / "checkpoints" / "checkpoint-60")
    return folder / "whole", folder / "halved"


def test_what_leaves_the_curve_as_it_is_may_change(stopped, arguments, corpus, cli, whole_run, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(corpus, moved / "text.txt")
    given = ["--report-to", "tensorboard", "--keep-checkpoints", "1", "--set", "dataloader_num_workers=2"]
    assert cli("pretrain", moved, *arguments[1:], "-o", stopped, "--resume", "-q", *given) == 0
    assert_same_weights(stopped, whole_run)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["checkpoint-60"]
    assert any((stopped / "logs").iterdir())
    # What has changed is what the run goes on with from now on.
    assert json.loads((stopped / "results.json").read_text())["config"]["corpus"] == [str(moved)]
    assert f"- {moved}" in (stopped / "run.yaml").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--max-steps", "80"], "{run} holds a run with --max-steps 60, not 80, and its schedules are computed for "
         "that length: let it finish, then continue training its model in another --output with --init-from {run} and "
         "the additional steps; replace it with --overwrite, or give another folder"),
        (["--max-steps", "40"], "--max-steps 60, not 40, and its schedules are computed for that length"),
        (["--batch-size", "8"], "{run} holds a run with --batch-size 4, not 8: resume it with the same settings"),
        (["--set", "optim=sgd"], "{run} holds a run with --set optim=None, not 'sgd': resume it with the same"),
        (["--set", "dataloader_in_order=false", "--set", "dataloader_num_workers=1"], "--set dataloader_in_order=None"),
        (["--preset", "tiny"], "--preset 'mini', not 'tiny'"),
        (["--line-by-line"], "--line-by-line False, not True"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("alone", [True, False])
def test_what_would_change_the_curve_is_refused(stopped, arguments, cli, capsys, given, message, alone):
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    settings = [] if alone else arguments
    assert cli("pretrain", *settings, *given, "-o", stopped, "--resume", "-q") == 2
    assert message.format(run=stopped) in one_line(capsys.readouterr().err)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


def test_more_steps_as_advised(whole_run, cli, tmp_path, capsys):
    """The advice that is given works."""
    folder = Path(shutil.copytree(whole_run, tmp_path / "run"))
    assert cli("pretrain", "-o", folder, "--resume", "--max-steps", "80", "-q") == 2
    assert f"--init-from {folder}" in one_line(capsys.readouterr().err)
    more = ["--init-from", folder, "--max-steps", "3", "--block-size", "32", "--batch-size", "4", "--report-to", "none"]
    corpus = json.loads((folder / "results.json").read_text())["config"]["corpus"]
    assert cli("pretrain", *corpus, *more, "--heads", "next:1", "-o", tmp_path / "longer", "-q") == 0


def test_a_run_by_settings_in_a_file_that_has_idle_ones(arguments, cli, tmp_path):
    """What a file holds may do nothing, also when the run resumes."""
    rest = [*arguments]
    for name in ("--save-every", "--eval-every"):
        place = rest.index(name)
        del rest[place : place + 2]
    place = rest.index("--max-steps")
    (tmp_path / "settings.yaml").write_text(f"max_steps: {rest[place + 1]}\n")
    del rest[place : place + 2]
    line = ["pretrain", *rest, "--config", tmp_path / "settings.yaml", "--max-time", "1s", "-o", tmp_path / "run", "-q"]
    assert cli(*line) == 0
    assert cli(*line, "--resume") == 0


def test_a_run_that_has_ended(whole_run, arguments, cli, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")}
    assert cli("pretrain", *arguments, "-o", whole_run, "--resume") == 0
    assert "is already finished" in " ".join(capsys.readouterr().out.split())
    assert {path: path.stat().st_mtime_ns for path in whole_run.rglob("*")} == before


def test_a_run_that_has_ended_is_not_that_of_another_text(whole_run, arguments, corpus, cli, tmp_path, capsys):
    """One that has moved is no other."""
    moved, other = tmp_path / "moved.txt", tmp_path / "other.txt"
    shutil.copy(corpus, moved)
    other.write_text(corpus.read_text(encoding="utf-8")[:-500], encoding="utf-8")
    assert cli("pretrain", moved, *arguments[1:], "-o", whole_run, "--resume", "-q") == 0
    assert cli("pretrain", other, *arguments[1:], "-o", whole_run, "--resume", "-q") == 2
    assert "has changed since the run in" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "left", [["run.yaml.partial"], ["run.yaml"], ["run.yaml", "partial"], ["run.yaml", "tokenizer"]]
)
def test_dead_while_the_folder_was_begun(left, whole_run, arguments, cli, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        if name == "tokenizer":
            shutil.copytree(whole_run / name, folder / name)
        elif name == "partial":
            (folder / name / "tokenizer").mkdir(parents=True)
        else:
            (folder / name).write_text((whole_run / "run.yaml").read_text())
    assert cli("pretrain", *arguments, "-o", folder, "-q", "--resume") == 0
    assert_same_weights(folder, whole_run)
