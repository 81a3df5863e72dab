"""Writes docs/support.md: which encoders and which ways of training are known to work, from the tests that show it.

    python docs/tables.py          runs these tests (about two minutes) and writes the tables

Each row names tests; it says `yes` only if all of them passed in this run.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
sys.path.insert(0, str(TESTS))

import encoders  # type: ignore[import-not-found]  # noqa: E402  (of the tests)

from attention_guidance.results import header  # noqa: E402

EXACT = "tests/test_encoders.py::test_loss_and_gradients_are_those_of_the_eager_maps"
OUTSIDE = "tests/test_encoders.py::test_encoders_outside_the_interface_say_so"
# What people call it, the tests that show it, and what to know.
WAYS = {
    "a loop of one's own": (["tests/test_training_loops.py::test_plain_loop"], ""),
    "Trainer": (
        ["tests/test_training_loops.py::test_trainer"],
        "schedules and logs: `callbacks=[guidance.callback()]`",
    ),
    "Accelerate": (["tests/test_training_loops.py::test_accelerate"], ""),
    "Lightning": (["tests/ways/test_lightning.py"], "schedules: `guidance.steps_done = trainer.global_step`"),
    "gradient accumulation": (["tests/test_training_loops.py::test_accumulation"], "same curve as without"),
    "autocast in bf16 and fp16, GradScaler, bf16 weights": (["tests/ways/test_precision.py"], ""),
    "gradient checkpointing": (
        ["tests/test_attach.py::test_checkpointing", "tests/test_attach_edges.py::TestCheckpointing"],
        "`use_reentrant=False`; reentrant is refused",
    ),
    "torch.compile": (["tests/ways/test_compile.py"], "also `fullgraph=True`, without checkpointing"),
    "DistributedDataParallel": (
        ["tests/ways/test_distributed.py::*ddp"],
        "guidance is the mean over processes, as the objective",
    ),
    "FSDP2 (`fully_shard`)": (["tests/ways/test_distributed.py::*fsdp"], "guide before or after"),
    "sentence-transformers": (
        ["tests/ways/test_sentence_transformers.py"],
        "`callbacks=[guidance.callback()]`, or `within=` the loss; not its `Cached...` losses",
    ),
    "PEFT": (["tests/ways/test_peft.py"], "LoRA, adapters, prompt tuning; prefix tuning is refused"),
    "several texts a loss (siamese, SimCSE)": (["tests/test_passes.py::test_two_texts"], "guidance of all calls"),
    "packed sequences": (
        ["tests/ways/test_packed.py::*packed"],
        "`position_ids` that restart; no target across a border",
    ),
}


class Outcomes:
    """Collects what became of each test."""

    def __init__(self) -> None:
        self.of: dict[str, list[bool]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test, its set-up or its tear-down has ended."""
        if report.when == "call" or report.outcome != "passed":
            self.of[report.nodeid].append(report.outcome == "passed")

    def passed(self, pattern: str) -> bool:
        """Whether there are tests whose id begins so (after `*`: holds that), and all passed."""
        start, _, inside = pattern.partition("*")
        found = [ok for name, oks in self.of.items() if name.startswith(start) and inside in name for ok in oks]
        return bool(found) and all(found)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    outcomes = Outcomes()
    files = sorted({test.split("::")[0] for tests, _ in WAYS.values() for test in tests} | {EXACT.split("::")[0]})
    pytest.main(["-q", "-p", "no:cacheprovider", *(str(ROOT / name) for name in files)], plugins=[outcomes])
    (ROOT / "docs" / "support.md").write_text(page(outcomes), encoding="utf-8")
    print(ROOT / "docs" / "support.md")


def page(outcomes: Outcomes) -> str:
    """The page, as Markdown."""
    versions = header("support")["versions"]
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    lines = [
        "# What is known to work",
        "",
        f"Written by `python docs/tables.py` from the outcome of the tests ({made_with}, CPU).",
        "",
        "## Encoders",
        "",
        "Loss and gradients of a small random model, in float64, against its own eager attention maps.",
        "",
        "| family | guided exactly | backend that `auto` takes |",
        "|---|---|---|",
    ]
    for name in encoders.GUIDABLE:
        ok = all(outcomes.passed(f"{EXACT}[{name}-{backend}]") for backend in ("reference", "auto"))
        lines.append(f"| {name} | {'yes' if ok else 'NO'} | {encoders.AUTO.get(name, 'blocked')} |")
    lines += [
        "",
        "Others that take their attention through transformers' attention interface will work as well; a model whose",
        "attention is never called raises on its first forward pass. These are refused:",
        "",
        "| family | refused with an error | reason |",
        "|---|---|---|",
    ]
    for name in encoders.OUTSIDE:
        ok = outcomes.passed(f"{OUTSIDE}[{name}]")
        lines.append(f"| {name} | {'yes' if ok else 'NO'} | computes its attention itself, past the interface |")
    lines += ["", "## Ways of training", "", "| way | works | to know |", "|---|---|---|"]
    for way, (tests, note) in WAYS.items():
        lines.append(f"| {way} | {'yes' if all(map(outcomes.passed, tests)) else 'NO'} | {note} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
