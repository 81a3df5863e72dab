"""Pairs of commands that start on one output folder at the same moment, which import everything before.

The arguments are a folder for the outputs, the number of pairs, and those of the command. A line of JSON says how each
pair ended: the exit codes and standard errors of the commands with seeds 1 and 2.
"""

import json
import os
import sys
import threading
from pathlib import Path

from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining import pretrain  # noqa: F401


def start(output: Path, seed: int, gate: int) -> int:
    """A command that begins once it can read from the gate; its process."""
    if pid := os.fork():
        return pid
    os.dup2(os.open(output.with_name(f"{output.name}-{seed}.err"), os.O_WRONLY | os.O_CREAT), 2)
    os.read(gate, 1)
    main([*sys.argv[3:], "--seed", str(seed), "-o", str(output), "-q"])
    raise AssertionError("unreachable")


if __name__ == "__main__":
    assert threading.active_count() == 1
    for number in range(int(sys.argv[2])):
        output = Path(sys.argv[1]) / f"run-{number}"
        gate, hold = os.pipe()
        os.set_inheritable(hold, False)
        pids = []
        for seed in (1, 2):
            pids.append(start(output, seed, gate))
        os.write(hold, b"go")
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        said = [output.with_name(f"{output.name}-{seed}.err").read_text() for seed in (1, 2)]
        print(json.dumps({"codes": codes, "said": said}), flush=True)  # what is not written yet, forks write too
