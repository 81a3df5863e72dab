"""The kernels compile for GPUs that are not here, and use what these have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")
NVIDIA = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
pytestmark = pytest.mark.skipif(not NVIDIA.exists(), reason="this Triton has no tools for NVIDIA GPUs")


def run(results, *arguments, before=""):
    """The program in a process of its own, where kernels are not interpreted."""
    code = f"{before}\nimport runpy; runpy.run_module('benchmarks.kernel.compiled', run_name='__main__')"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_ALWAYS_COMPILE"] = "0"
    command = [sys.executable, "-c", code, *map(str, arguments), "--results", str(results)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)


def test_they_use_tensor_cores_and_fetch_ahead(tmp_path):
    results = tmp_path / "results.jsonl"
    done = run(results, "--dtypes", "bf16", "--channels", "64", "--cases", "guided", "pairs", "ones")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert {(record["architecture"], record["case"]) for record in records} == {
        (architecture, case) for architecture in (80, 90) for case in ("guided", "pairs", "ones")
    }
    for record in records:
        kernels = {kernel["kernel"]: kernel for kernel in record["kernels"]}
        assert kernels.keys() == {"attend", "deltas", "of_queries", "of_keys"}
        for name in ("attend", "of_queries", "of_keys"):
            # sm_90 has instructions of its own, several times as fast as those that it shares with sm_80.
            assert kernels[name]["wgmma" if record["architecture"] == 90 else "mma"] > 0
            assert kernels[name]["asynchronous_copies"] > 0
            assert 0 < kernels[name]["shared_memory_bytes"] <= 99 * 1024
            # A compiler that gives up on registers spills thousands of bytes.
            assert kernels[name]["spilled_bytes"] <= 256, (record["architecture"], record["case"], name)
    shown = run(results, "--show")
    assert shown.returncode == 0
    assert "| sm_90 | bf16 | 64 | pairs | of_keys |" in shown.stdout


def tiles_of(queries, keys, warps, stages):
    tile = f"g.Tile({queries}, {keys}, {warps}, {stages})"
    return (
        "from attention_guidance.loss.triton import geometry as g\n"
        f"g._GEOMETRIES = {{(2, 128): g.Geometry({tile}, {tile}, {tile})}}"
    )


ONE_CALL = ("--architectures", "80", "--dtypes", "bf16", "--cases", "unguided")


def test_tiles_that_are_too_large_are_told(tmp_path):
    done = run(tmp_path / "results.jsonl", *ONE_CALL, "--channels", "128", before=tiles_of(128, 128, 8, 4))
    assert done.returncode == 1
    for kernel in ("attend", "of_queries", "of_keys"):
        assert f"error: sm_80, bf16, 128 channels, unguided: {kernel} needs" in done.stderr
    assert "bytes of shared memory of 101376" in done.stderr


def test_what_does_not_compile_is_told(tmp_path):
    results = tmp_path / "results.jsonl"
    done = run(results, *ONE_CALL, "--channels", "64", before=tiles_of(48, 64, 4, 2))
    assert done.returncode == 1
    for kernel in ("attend", "of_queries", "of_keys"):
        assert f"error: sm_80, bf16, 64 channels, unguided: {kernel} does not compile: " in done.stderr
    assert "must be a power of 2" in done.stderr
    assert run(results, "--show").returncode == 0


def test_nothing_is_fetched_ahead_in_one_stage(tmp_path):
    results = tmp_path / "results.jsonl"
    assert run(results, *ONE_CALL, "--channels", "64", before=tiles_of(64, 64, 4, 1)).returncode == 0
    kernels = {kernel["kernel"]: kernel for kernel in json.loads(results.read_text())["kernels"]}
    assert all(kernels[name]["asynchronous_copies"] == 0 for name in ("attend", "of_queries", "of_keys"))


@pytest.mark.parametrize("lacking", ["triton", "tools"])
def test_no_compiler(tmp_path, lacking):
    before = {
        "triton": "from attention_guidance.loss import triton as backend\nbackend.installed = lambda: False",
        "tools": "import triton\ntriton.__file__ = '/nowhere/triton/__init__.py'",
    }
    done = run(tmp_path / "results.jsonl", *ONE_CALL, before=before[lacking])
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "results.jsonl").exists()


def test_nothing_to_show(tmp_path):
    done = run(tmp_path / "results.jsonl", "--show")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no results are kept in")
