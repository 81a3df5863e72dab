"""The audit of packages fails on a known vulnerability, and says so where it could not look any up."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"], "aliases": []}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([FINE], 0, r"1 packages, 0 known vulnerabilities"),
        ([FINE, BAD, UNKNOWN], 1, r"b 2: CVE-1, mended in 3\n2 packages, 1 known vulnerabilities; not looked up: c"),
        ([UNKNOWN], 0, r"!! AUDIT SKIPPED: .*"),
        ([], 0, r"!! AUDIT SKIPPED: .*"),
    ],
)
def test_verdicts(audit, packages, code, said):
    found = audit.verdict({"dependencies": packages})
    assert found[0] == code
    assert re.fullmatch(said, found[1])


def test_without_a_report_it_is_skipped(audit):
    assert audit.verdict(None)[1].startswith("!! AUDIT SKIPPED")


def test_every_pin_can_be_looked_up():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+!-]+( ?;.*)?", pin)] == []


def test_what_security_promises_is_tested():
    """SECURITY.md names the tests that hold each promise."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)`", page)
    assert len(named) >= 6
    assert [path for path in named if not (ROOT / path).is_file()] == []
