"""Writes docs/support.md: which encoders and which ways of training are known to work, from the tests that show it.

    python docs/tables.py              runs these tests and goes through all models of transformers (about four minutes)
    python docs/tables.py --families   goes through all models of transformers, and leaves the other tables

A row of the first tables says `yes` only if all of its tests passed in this run. The families are all that the
installed transformers has: each model without a head is guided and compared with its own eager attention maps, or is
listed with the reason why it was not.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PAGE = ROOT / "docs" / "support.md"
FAMILIES, WAYS_HEADING = "## Every family", "## Ways of training"
sys.path.insert(0, str(TESTS))

import encoders  # type: ignore[import-not-found]  # noqa: E402  (of the tests)
import families  # type: ignore[import-not-found]  # noqa: E402
import family_verdicts  # type: ignore[import-not-found]  # noqa: E402

from attention_guidance.commands.results import header  # noqa: E402

EXACT = "tests/test_encoders.py::test_loss_and_gradients_are_those_of_the_eager_maps"
OUTSIDE = "tests/test_encoders.py::test_encoders_outside_the_interface_say_so"
# What people call it, the tests that show it, and what to know.
WAYS = {
    "your own training loop": (["tests/test_training_loops.py::test_plain_loop"], ""),
    "Trainer": (
        ["tests/test_training_loops.py::test_trainer"],
        "schedules and logs: `callbacks=[guidance.callback()]`",
    ),
    "Accelerate": (["tests/test_training_loops.py::test_accelerate"], ""),
    "Lightning": (
        ["tests/ways/test_lightning.py"],
        "schedules: `guidance.steps_done = trainer.global_step`; a relative weight: `guidance.step()`",
    ),
    "gradient accumulation": (["tests/test_training_loops.py::test_accumulation"], "same curve as without"),
    "autocast in bf16 and fp16, GradScaler, bf16 weights": (["tests/ways/test_precision.py"], ""),
    "gradient checkpointing": (
        ["tests/test_attach.py::test_checkpointing", "tests/test_attach_edges.py::TestCheckpointing"],
        "`use_reentrant=False`; reentrant is refused",
    ),
    "torch.compile": (["tests/ways/test_compile.py"], "also `fullgraph=True`, without checkpointing"),
    "DistributedDataParallel": (
        ["tests/ways/test_distributed.py::*ddp"],
        "guidance is the mean over processes, like the objective",
    ),
    "FSDP2 (`fully_shard`)": (["tests/ways/test_distributed.py::*fsdp"], "call `guide` before or after sharding"),
    "sentence-transformers": (
        ["tests/ways/test_sentence_transformers.py"],
        "`callbacks=[guidance.callback()]`, or `within=` the loss; not its `Cached...` losses",
    ),
    "PEFT": (["tests/ways/test_peft.py"], "LoRA, adapters, prompt tuning; prefix tuning is refused"),
    "several texts per loss (siamese, SimCSE)": (
        ["tests/forward/test_passes.py::test_two_texts"],
        "guidance sums all calls",
    ),
    "packed sequences": (
        ["tests/ways/test_packed.py::*packed"],
        "`position_ids` that restart; no target in another document",
    ),
}


# What the error says of a model whose attention maps no hook sees.
UNSEEN = "applies dropout by a function"
# The outcomes for a model that is not guided exactly, and the heading of each table.
OTHERWISE = {
    "WRONG": "Guided, and wrong against the eager maps",
    "not compared": "Accepted, not compared",
    "refused in a pass": "Accepted, refused in the first training pass",
    "not built": "Could not be made here",
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", action="store_true", help="only the tables of all models of transformers")
    if parser.parse_args().families:
        before, rest = PAGE.read_text(encoding="utf-8").split(FAMILIES)
        lines = "\n".join([*family_lines(verdicts()), "", ""])
        PAGE.write_text(before + lines + WAYS_HEADING + rest.split(WAYS_HEADING)[1], encoding="utf-8")
        return
    outcomes = Outcomes()
    files = sorted({test.split("::")[0] for tests, _ in WAYS.values() for test in tests} | {EXACT.split("::")[0]})
    ended = pytest.main(["-q", "-p", "no:cacheprovider", *(str(ROOT / name) for name in files)], plugins=[outcomes])
    if ended not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"the tests did not run (pytest: {ended!r}); {PAGE} is left as it was")
    PAGE.write_text(page(outcomes, verdicts()), encoding="utf-8")
    print(PAGE)


def verdicts() -> dict[str, Any]:
    """What becomes of guidance on every model of transformers without a head, by class."""
    logging.set_verbosity(logging.CRITICAL)
    found: dict[str, Any] = {}
    for name, model_class in families.base_classes().items():
        found[name] = family_verdicts.attached(model_class)
        if found[name].kind == "attached":
            found[name] = family_verdicts.compared(model_class)
            print(f"{name}: {found[name].kind} ({found[name].reason})")
    return found


def page(outcomes: Outcomes, found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    versions = header("support")["versions"]
    made_with = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions)
    lines = [
        "# What is known to work",
        "",
        f"Written by `python docs/tables.py` from the outcome of the tests ({made_with}, CPU).",
        "",
        *encoder_lines(outcomes),
        "",
        *family_lines(found),
    ]
    lines += ["", WAYS_HEADING, "", "| way | works | notes |", "|---|---|---|"]
    for way, (tests, note) in WAYS.items():
        lines.append(f"| {way} | {'yes' if all(map(outcomes.passed, tests)) else 'NO'} | {note} |")
    return "\n".join([*lines, ""])


def encoder_lines(outcomes: Outcomes) -> list[str]:
    """The section on the encoders of the tests."""
    lines = [
        "## Encoders",
        "",
        "Loss and gradients of a small random model, in float64, compared with those from its own eager maps.",
        "",
        "| family | guided exactly | backend chosen by `auto` |",
        "|---|---|---|",
    ]
    for name in encoders.GUIDABLE:
        ok = all(outcomes.passed(f"{EXACT}[{name}-{backend}]") for backend in ("reference", "auto"))
        lines.append(f"| {name} | {'yes' if ok else 'NO'} | {encoders.AUTO.get(name, 'blocked')} |")
    lines += [
        "",
        "The next section lists every family of transformers. These are refused:",
        "",
        "| family | refused with an error | reason |",
        "|---|---|---|",
    ]
    for name in encoders.OUTSIDE:
        ok = outcomes.passed(f"{OUTSIDE}[{name}]")
        lines.append(
            f"| {name} | {'yes' if ok else 'NO'} | applies attention dropout by a function, outside the interface |"
        )
    return lines


def family_lines(found: dict[str, Any]) -> list[str]:
    """The section on all families of transformers."""
    classes, counts = families.base_classes(), Counter(verdict.kind for verdict in found.values())
    unseen = {families.family_of(classes[name]) for name, verdict in found.items() if UNSEEN in verdict.reason}
    exact: dict[str, list[str]] = defaultdict(list)
    for name, verdict in found.items():
        if verdict.kind == "exact":
            exact[families.family_of(classes[name])].append(name)
    lines = [
        FAMILIES,
        "",
        f"transformers has {len(found)} headless models that can be imported here. `guide()` was called on each, in",
        "the smallest size that could be built. Each accepted model ran one training pass in float64, and its guidance",
        "loss and gradients were compared with those from the eager attention maps of an unguided copy.",
        "",
        f"The {counts['refused']} models not listed below are refused with a reason: they are decoders, contain",
        "several stacks of attention, or compute attention where guidance cannot see it.",
        "",
        "`own maps`: the model computes its attention itself, outside transformers' attention interface. Its maps are",
        "seen where they enter the Dropout module of its attention probabilities, whose probability may be 0. Guidance",
        "is computed from these dense maps, with the memory of the backend `reference`. Models outside the interface",
        f"that apply dropout by a function have no such module, and are refused: {', '.join(sorted(unseen))}.",
        "",
        f"### Guided exactly: {len(exact)} families",
        "",
        "| family | models | backend chosen by `auto` |",
        "|---|---|---|",
    ]
    for family, names in sorted(exact.items()):
        lines.append(f"| {family} | {_listed(names)} | {', '.join(sorted({found[name].reason for name in names}))} |")
    for kind, heading in OTHERWISE.items():
        by_reason: dict[str, list[str]] = defaultdict(list)
        for name, verdict in found.items():
            if verdict.kind == kind:
                by_reason[_short(verdict.reason)].append(name)
        if by_reason:
            lines += ["", f"### {heading}", "", "| models | reason |", "|---|---|"]
            lines += [f"| {_listed(names)} | {reason} |" for reason, names in by_reason.items()]
    return lines


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _short(reason: str) -> str:
    """A reason in a cell of a table."""
    text = reason.replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 160 else text[:157] + "..."


if __name__ == "__main__":
    main()
