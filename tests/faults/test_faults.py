"""Some faults happen to every command: it ends as promised, loses nothing, and the next call ends as without the fault.

All faults and moments: `python -m benchmarks.reliability.faults`.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys

import pytest

from attention_guidance.commands.memory import advice, ran_out
from benchmarks.reliability import faults
from benchmarks.reliability.fault_cases import CODES, Case, Kit
from benchmarks.reliability.fault_injection import Fault, run

# A moment is given as an operation of the command without a fault: what it begins with, and which of them.
MOMENTS = [
    ("killed", "pretrain", "os.rename checkpoints/partial/checkpoint-4", 0, ""),
    ("killed", "pretrain", "os.rename checkpoints/checkpoint-2", 0, ""),
    ("killed", "pretrain", "os.rename run.yaml.partial", 0, ""),
    ("killed", "finetune", "os.rename fits/", 1, ""),
    ("killed", "predict", "os.rename predicted.jsonl.partial", 0, ""),
    ("killed", "tokenizer", "os.fsync partial", -1, ""),
    ("killed", "census", "os.rename census.csv.partial", 0, ""),
    ("killed in a write", "pretrain", "os.mkdir checkpoints/partial/checkpoint-4", 0, "10000"),
    ("disk full", "pretrain", "os.mkdir partial/tokenizer", 0, "0"),
    ("disk full", "finetune", "os.mkdir partial/model", 0, "0"),
    ("disk full", "predict", "open predicted.jsonl.partial", 0, "0"),
    ("disk full", "tokenizer", "os.mkdir partial/bpe-280", 0, "0"),
    ("disk full", "census", "open census.csv.partial", 0, "0"),
    ("disk full", "probe", "os.mkdir", 0, "0"),
    ("disk full", "report", "open figures", 0, "1000"),
    ("read-only", "pretrain", "open results.json.partial", 0, ""),
    ("read-only", "tokenizer", "open tokenizers.json.partial", 0, ""),
    ("SIGHUP", "pretrain", "os.rename checkpoints/partial/checkpoint-2", 0, ""),
    ("SIGTERM", "predict", "open predicted.jsonl.partial", 0, ""),
    ("SIGINT", "census", "open census.csv.partial", 0, ""),
    ("terminal closed", "pretrain", "os.rename checkpoints/partial/checkpoint-2", 0, ""),
    ("reader gone", "pretrain", "os.rename checkpoints/partial/checkpoint-2", 0, ""),
    ("log on a full disk", "finetune", "os.rename fits/", 1, ""),
]
OTHERS = [
    Case("worker killed", "pretrain", 9),
    Case("out of memory", "pretrain", 20, "1"),
    Case("out of memory", "finetune", 9, "0"),
    Case("out of memory", "predict", 1, "2"),
    Case("input changed", "finetune", 2, "changes"),
    Case("input changed", "pretrain", 6, "vanishes"),
    Case("input changed before the next call", "pretrain", 90, "is truncated"),
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    faults.import_commands()
    return Kit(tmp_path_factory.mktemp("faults") / "kit")


def moment(kit, command, begin, which):
    return [n for n, name in enumerate(kit.whole(command)[0]) if name.startswith(begin)][which]


@pytest.mark.parametrize(("fault", "command", "begin", "which", "how"), MOMENTS)
def test_at_a_moment(kit, fault, command, begin, which, how):
    assert Case(fault, command, moment(kit, command, begin, which), how).run(kit) == []


@pytest.mark.parametrize("command", ["census", "ablate", "look", "probe", "skill", "report"])
def test_the_results_file_is_written_last(kit, command):
    """A folder that has it has tables and figures too."""
    written = [name for name in kit.whole(command)[0] if name.startswith("os.rename")]
    assert written[-1].endswith(f"-> {command}.json")
    assert len(written) > 2


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case.fault}, {case.command}")
def test_elsewhere(kit, case):
    assert case.run(kit) == []


def test_each_fault_has_its_code(kit):
    """Or a fault that never happens would pass."""
    tried = {fault for fault, *_ in MOMENTS} | {case.fault for case in OTHERS}
    assert tried == {*CODES}
    output = kit.output("pretrain")
    at = moment(kit, "pretrain", "os.rename checkpoints/partial/checkpoint-2", 0)
    codes = {
        kind: run(kit.commands["pretrain"].line(output / kind), output / kind, Fault(kind, at)).code
        for kind in ("killed", "disk full", "SIGTERM", "terminal closed")
    }
    assert codes == {"killed": -9, "disk full": 1, "SIGTERM": 143, "terminal closed": 129}


@pytest.mark.parametrize("when", [10, 13, 14])
def test_text_is_never_that_of_two_files(kit, when):
    """A run of text that changes when it is opened for the n-th time: of the old text, of the new one, or an error."""
    assert Case("input changed", "pretrain", when, "changes").run(kit) == []


def test_the_table_counts_what_was_broken():
    cases = [
        {"fault": "killed", "command": "pretrain", "broken": ["lost: checkpoints/checkpoint-2"]},
        {"fault": "killed", "command": "pretrain", "broken": []},
        {"fault": "SIGHUP", "command": "predict", "broken": ["exit code 0 with wrong results: a", "leaves a.partial"]},
    ]
    assert faults.table(cases) == [
        ("killed", "pretrain", "2", "1", "1", "0"),
        ("killed", "all", "2", "1", "1", "0"),
        ("SIGHUP", "predict", "1", "0", "0", "1"),
        ("SIGHUP", "all", "1", "0", "0", "1"),
        ("all", "all", "3", "1", "1", "1"),
    ]


def test_results_are_kept(tmp_path, monkeypatch, capsys):
    """A case that the results hold is not run again, and one that broke a promise gives exit code 1."""
    file = tmp_path / "faults.jsonl"
    cases = [Case("killed", "predict", 0), Case("killed", "predict", 1)]
    ran = []
    monkeypatch.setattr(faults, "Kit", lambda folder: None)
    monkeypatch.setattr(faults, "all_cases", lambda *given: cases)
    monkeypatch.setattr(Case, "run", lambda case, kit: ran.append(case) or (["hangs"] if case.at else []))
    for n in (1, 2):
        monkeypatch.setattr(faults, "all_cases", lambda *given, n=n: cases[:n])
        monkeypatch.setattr(sys, "argv", ["faults.py", "--results", str(file)])
        with pytest.raises(SystemExit) as stop:
            faults.main()
        assert stop.value.code == (n == 2)
    assert ran == cases
    assert [record["broken"] for record in faults.read(file)] == [[], ["hangs"]]
    assert "killed, predict at 1 : hangs" in capsys.readouterr().err


def test_memory_is_recognized():
    real = None
    try:
        bytearray(1 << 60)
    except MemoryError as error:
        real = error
    wrapped = ValueError("the model fails on the first example")
    wrapped.__cause__ = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert ran_out(real)
    assert ran_out(wrapped)
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((32, 2), "out of memory with `batch_size` 32 and `accumulation` 2; try `accumulation` 4, which keeps the "
         "batch of a step and may change on `resume`, or `batch_size` 16 in a new run"),
        ((3, 1), "out of memory with `batch_size` 3 and `accumulation` 1; try `batch_size` 1, a smaller `block_size` "
         "or a smaller model"),
        ((16, None), "out of memory with `batch_size` 16; try `batch_size` 8 or a smaller model"),
        ((1, None), "out of memory with `batch_size` 1; try shorter texts or a smaller model"),
        ((None, None), "out of memory; try a smaller batch, a shorter text or a smaller model"),
    ],
)  # fmt: skip
def test_which_batch_size_may_fit(sizes, said):
    assert advice(*sizes) == said


def test_a_log_on_a_full_disk(kit):
    """TensorBoard writes on a thread of its own."""
    command = kit.commands["pretrain"]
    output = kit.output("logs")
    line = [*command.line(output), "--report-to", "tensorboard"]
    whole = run(line, output)
    at = next(n for n, name in enumerate(whole.moments) if "logs/events" in name)
    shutil.rmtree(output)
    ended = run(line, output, Fault("disk full", at + 1, 0))
    assert ended.code == 1
    assert re.fullmatch(r"error: could not (save the logs of the run|write .*): .*\n", ended.said)
    assert run([*line, "--resume"], output).code == 0


def test_a_fine_tuning_that_had_only_made_its_folder(kit):
    command, output = kit.commands["finetune"], kit.output("finetune")
    (output / "fits").mkdir(parents=True)
    assert run(command.line(output), output).code == 0


def test_nohup(kit):
    """A signal that is ignored when the command begins stays ignored."""
    output = kit.output("nohup")
    ended = run(
        kit.commands["pretrain"].line(output),
        output,
        Fault("SIGHUP", 100),
        lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert ended.code == 0
    assert (output / "results.json").is_file()
