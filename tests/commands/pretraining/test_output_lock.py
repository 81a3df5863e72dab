"""One command at a time writes to an output folder."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import filelock
import pairs
import pytest

import attention_guidance
from attention_guidance.commands.output_lock import LOCK_FILE, until_done
from attention_guidance.commands.pretraining.saving.checkpoints import damage
from attention_guidance.commands.workspace import COMPARISON, RECIPE, RUN, State, Workspace
from attention_guidance.errors import RunError
from benchmarks import forked

ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(attention_guidance.__file__).parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
TIMEOUT = 180
HOLDS = """
import sys, time
from pathlib import Path
from attention_guidance.commands.workspace import RUN, Workspace
Workspace(Path(sys.argv[1]), RUN).claim()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has claimed the folder `out`."""
    with forked.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_by_name(tmp_path, holder, cli, corpus, capsys):
    for command in (["pretrain", corpus], ["compare", corpus, "--resume"], ["reflexives", "--overwrite"]):
        assert cli(*command, "-o", tmp_path / "out", "-q") == 2
        (said,) = capsys.readouterr().err.splitlines()
        named = rf"process {holder.pid} on {re.escape(socket.gethostname())}, started \d{{4}}-\d\d-\d\d [\d:]{{8}} UTC"
        assert re.fullmatch(
            rf"error: --output \S+/out is in use by {named}; wait until it exits, or give another folder", said
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_FILE]


def test_a_killed_process_leaves_no_lock(tmp_path, holder, cli):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "out" / LOCK_FILE).exists()
    assert cli("reflexives", "--sentences", "3", "-o", tmp_path / "out", "-q") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"reflexives.json", "reflexives.txt"}


def test_claims_nest_in_one_process(tmp_path):
    out = tmp_path / "new" / "out"
    with until_done():
        for _ in range(2):
            assert Workspace(out, RECIPE).claim() is State.NOTHING
            assert Workspace(out / "guided", RUN).claim() is State.NOTHING
        with until_done():
            Workspace(out, RECIPE).claim()
        assert (out / LOCK_FILE).exists()
    assert not (tmp_path / "new").exists()


def test_folders_that_only_a_killed_process_has_locked_are_nothing(tmp_path):
    for folder in ("seed-1/guided", "seed-1/unguided", "."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / LOCK_FILE).touch()
    assert {Workspace(tmp_path, kind).state for kind in (RUN, RECIPE, COMPARISON)} == {State.NOTHING}
    (tmp_path / "seed-1" / "guided" / "mine.txt").touch()
    assert Workspace(tmp_path, RUN).state is State.FOREIGN


def test_refused_settings_leave_no_folder(tmp_path, cli, corpus):
    assert cli("pretrain", corpus, "--heads", "nonsense:1", "-o", tmp_path / "new" / "out", "-q") == 2
    assert cli("compare", corpus, "--batch-size", "100000", "-o", tmp_path / "new" / "out", "-q") == 2
    assert not (tmp_path / "new").exists()


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "link", tmp_path / "link" / "out"):
        with pytest.raises(RunError, match=r"cannot be used \(.*\); give another folder"):
            Workspace(folder, RUN).claim()


def test_a_file_system_without_locks_is_written_to_with_a_warning(tmp_path, monkeypatch, caplog):
    def unsupported(descriptor: int) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(filelock._unix, "lock_fd_nonblocking", unsupported)
    with until_done():
        for _ in range(2):
            assert Workspace(tmp_path / "out", RUN).claim() is State.NOTHING
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'out'}: this file system has no locks; do not start a second command on this folder"
    ]
    assert not (tmp_path / "out").exists()


def test_of_two_commands_started_at_once_one_runs(tmp_path, arguments):
    """Both would exit with 0 and mix their files."""
    line = [sys.executable, "-m", "attention_guidance", "pretrain", *arguments, "--accumulation", "1"]
    started = [
        forked.Popen(
            [*line, "-q", "--seed", seed, "-o", str(tmp_path / "run")],
            stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    said = [process.communicate(timeout=TIMEOUT)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2], said
    assert "error: --output" in said[codes.index(2)]
    seed = codes.index(0) + 1
    assert f"\nseed: {seed}\n" in (tmp_path / "run" / "run.yaml").read_text()
    assert f'"seed": {seed}' in (tmp_path / "run" / "results.json").read_text()
    assert not [*tmp_path.rglob(LOCK_FILE)]


def test_of_two_that_begin_at_once_one_writes(arguments, tmp_path):
    """What is there in the end is of one run, not settings of one and results of the other."""
    command = ["pretrain", *arguments, "--max-steps", "100"]  # longer than a lock is waited for, on a fast machine too
    environment = ENVIRONMENT | {"TOKENIZERS_PARALLELISM": "false"}
    ended = forked.run(
        [sys.executable, pairs.__file__, str(tmp_path), "5", *command],
        capture_output=True, text=True, timeout=TIMEOUT, env=environment,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(found) == 5
    for number, pair in enumerate(found):
        assert sorted(pair["codes"]) == [0, 2], pair
        winner = 1 + pair["codes"].index(0)
        (line,) = pair["said"][2 - winner].splitlines()
        assert line.startswith(f"error: --output {tmp_path}/run-{number} ")
        assert "is in use by process" in line or "holds a run already" in line
        run = tmp_path / f"run-{number}"
        results = json.loads((run / "results.json").read_text())
        assert results["config"]["seed"] == winner
        assert f"seed: {winner}\n" in (run / "run.yaml").read_text()
        assert f"| seed, precision | {winner}, " in (run / "model" / "README.md").read_text()
        assert damage(run / "model") is None
    assert any("is in use by process" in line for pair in found for line in pair["said"])
