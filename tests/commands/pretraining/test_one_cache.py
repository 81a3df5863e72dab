"""Several processes, on one machine or several, pack the same large text into one cache."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import large_text
import pytest

import attention_guidance
from attention_guidance.commands.pretraining.saving.checkpoints import alone
from benchmarks import forked

TIMEOUT = 180
TURNS = """
import sys, time
from attention_guidance.commands.pretraining.distributed import processes
processes.start()
with processes.first_before_others():
    time.sleep(0.2)
    with open(sys.argv[1], "a") as file:
        file.write(f"{processes.number()}\\n")
    time.sleep(0.2)
processes.end()
"""


@pytest.fixture
def start(arguments, tmp_path, monkeypatch):
    """Start a process that packs: start(name of the run, "pack" or "die", command before it, cache)."""
    monkeypatch.setenv("PACKED", str(tmp_path / "packed"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(attention_guidance.__file__).parents[1]))
    started: list[subprocess.Popen[str]] = []

    def begin(name: str, how: str = "pack", launcher: tuple[str, ...] = (sys.executable,), cache: str = "cache"):
        run = ["pretrain", *arguments, "--accumulation", "1", "--max-steps", "2", "-o", str(tmp_path / name)]
        environment = os.environ | {"ATTENTION_GUIDANCE_CACHE": str(tmp_path / cache)}
        line = [*launcher, large_text.__file__, how, *run]
        started.append(forked.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()


def ended(*processes: subprocess.Popen[str]) -> list[str]:
    """What processes have said, all of which succeed."""
    said = [process.communicate(timeout=TIMEOUT) for process in processes]
    for process, (_, complained) in zip(processes, said, strict=True):
        assert process.returncode == 0, complained[-3000:]
    return [out for out, _ in said]


def fingerprints(*folders: Path) -> set[str]:
    return {json.loads((folder / "results.json").read_text())["data"]["fingerprint"] for folder in folders}


def test_processes_that_pack_the_same_text(start, arguments, cli, tmp_path):
    names = ["one", "two", "three"]
    said = ended(*[start(name) for name in names])
    assert (tmp_path / "packed").read_text().count("cache") == 1
    assert sum("the blocks are cached in" in text for text in said) == 1
    assert sum("waiting for it" in text for text in said) + sum("using the packed blocks" in text for text in said) == 2
    assert len(fingerprints(*[tmp_path / name for name in names])) == 1
    # What they train is what one trains alone, and from memory.
    ended(start("alone", cache="own"))
    in_memory = [*arguments, "--accumulation", "1", "--max-steps", "2"]
    assert cli("pretrain", *in_memory, "-o", tmp_path / "memory", "-q") == 0
    weights = {(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in [*names, "alone", "memory"]}
    assert len(weights) == 1
    assert not [*(tmp_path / "cache").glob("*/partial")]


def test_one_that_is_killed_makes_room(start, tmp_path):
    dying = start("dying", "die")
    end = time.monotonic() + TIMEOUT
    while not (tmp_path / "packed").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    others = start("one"), start("two")
    dying.communicate(timeout=TIMEOUT)
    assert dying.returncode == -signal.SIGKILL
    ended(*others)
    # By the one that died, and by one that waited for it.
    assert (tmp_path / "packed").read_text().count("cache") == 2
    assert len(fingerprints(tmp_path / "one", tmp_path / "two")) == 1
    assert not [*(tmp_path / "cache").glob("*/partial")]


def nodes() -> list[tuple[str, ...]]:
    """The commands that start two processes on each of two machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2")
    at = ("--master-addr", "127.0.0.1", "--master-port", str(port))
    return [(*torchrun, *at, "--node-rank", str(node)) for node in range(2)]


def test_a_second_machine_packs_once_too(start, tmp_path):
    ended(*[start("run", launcher=launcher, cache=f"cache-{n}") for n, launcher in enumerate(nodes())])
    assert sorted(Path(line).name for line in (tmp_path / "packed").read_text().split()) == ["cache-0", "cache-1"]
    assert len(fingerprints(tmp_path / "run")) == 1


def test_the_first_of_each_machine_goes_before_its_others(tmp_path):
    (tmp_path / "turns.py").write_text(TURNS)
    environment = os.environ | {"PYTHONPATH": str(Path(attention_guidance.__file__).parents[1])}
    started = [
        forked.Popen([*launcher, str(tmp_path / "turns.py"), str(tmp_path / "order")], env=environment)
        for launcher in nodes()
    ]
    assert [process.wait(timeout=TIMEOUT) for process in started] == [0, 0]
    order = [int(line) for line in (tmp_path / "order").read_text().split()]
    assert order[:2] == [0, 2]
    assert sorted(order[2:]) == [1, 3]


def test_what_is_done_alone_may_fail(tmp_path):
    waited: list[bool] = []
    for _ in range(2):
        with pytest.raises(OSError, match="full"), alone(tmp_path, lambda: waited.append(True)):
            raise OSError("full")
    assert not waited
