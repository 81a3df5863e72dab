"""What all tests of the commands share."""

import pytest

from benchmarks import forked


@pytest.fixture(autouse=True)
def _memory_is_measured_in_a_fork(monkeypatch):
    """A comparison measures memory in two more processes; `test_compare.py` has one where both start anew."""
    monkeypatch.setattr("attention_guidance.commands.pretraining.loop.peak_memory.subprocess", forked)
