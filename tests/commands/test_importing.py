"""Libraries are imported without garbage collection, and what they created is not collected later."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from attention_guidance.commands.cli.importing import importing


@pytest.fixture(autouse=True)
def as_it_was():
    enabled = gc.isenabled()
    yield
    gc.unfreeze()
    (gc.enable if enabled else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_paused_and_then_as_before(enabled):
    (gc.enable if enabled else gc.disable)()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() is enabled
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled() is enabled


def test_only_what_imports_created_is_frozen(monkeypatch):
    gc.unfreeze()
    with importing():
        pass
    assert gc.get_freeze_count() == 0
    with importing():
        monkeypatch.setitem(sys.modules, "imported_now", gc)
    assert gc.get_freeze_count() > 0


@pytest.mark.parametrize("command", ["pretrain", "compare"])
def test_commands_import_without_collection(command, tmp_path):
    """With it, transformers' million objects take some thousand collections."""
    program = f"""
import gc, sys
from attention_guidance.commands.cli import main
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
try:
    main(["{command}", "none.txt", "-o", "out"])
except SystemExit as ended:
    assert ended.code == 2
assert "transformers.trainer" in sys.modules
print(len(collections), gc.isenabled(), gc.get_freeze_count())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    n_collections, enabled, n_frozen = done.stdout.splitlines()[-1].split()
    assert int(n_collections) < 200
    assert enabled == "True"
    assert int(n_frozen) > 100_000
