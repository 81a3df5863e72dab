"""The kernels compile for GPUs that are not here, and use what these have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytest.importorskip("triton")
NVIDIA = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
pytestmark = pytest.mark.skipif(not NVIDIA.exists(), reason="this Triton has no tools for NVIDIA GPUs")


def run(results, *arguments, before=""):
    """The program in a process of its own, where kernels are not interpreted."""
    path = BENCHMARKS / "kernel_compiled.py"
    code = f"import sys, runpy; sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv[0] = 'kernel_compiled.py'\n{before}\n"
    code += f"runpy.run_path({str(path)!r}, run_name='__main__')"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code, *map(str, arguments), "--results", str(results)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_they_use_tensor_cores_and_fetch_ahead(tmp_path):
    results = tmp_path / "results.jsonl"
    done = run(results, "--channels", "64", "--cases", "guided", "pairs", "ones")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert {(record["architecture"], record["case"]) for record in records} == {
        (architecture, case) for architecture in (80, 90) for case in ("guided", "pairs", "ones")
    }
    for record in records:
        kernels = {kernel["kernel"]: kernel for kernel in record["kernels"]}
        assert kernels.keys() == {"attend", "deltas", "of_queries", "of_keys"}
        for name in ("attend", "of_queries", "of_keys"):
            assert kernels[name]["tensor_core_instructions"] > 0
            assert kernels[name]["asynchronous_copies"] > 0
            assert 0 < kernels[name]["shared_memory_bytes"] <= 227 * 1024
            # A compiler that gives up on registers spills thousands of bytes.
            assert kernels[name]["spilled_bytes"] <= 256, (record["architecture"], record["case"], name)
    shown = run(results, "--show")
    assert shown.returncode == 0
    assert "| sm_90 | bf16 | 64 | pairs | of_keys |" in shown.stdout


def test_tiles_that_are_too_large_are_told(tmp_path):
    too_large = (
        "from attention_guidance.loss.triton import geometry as g\n"
        "g._GEOMETRIES = {(2, 128): g.Geometry(*[g.Tile(128, 128, 8, 4)] * 3)}"
    )
    done = run(
        tmp_path / "results.jsonl", "--channels", "128", "--cases", "unguided", "--architectures", "80",
        before=too_large,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: sm_80, bf16, 128 channels, unguided: attend needs" in done.stderr
    assert "bytes of shared memory of 101376" in done.stderr


def test_nothing_to_show(tmp_path):
    done = run(tmp_path / "results.jsonl", "--show")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no results are kept in")
