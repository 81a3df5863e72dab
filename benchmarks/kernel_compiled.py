"""What the compiler makes of the kernels, for GPUs that need not be here.

    python benchmarks/kernel_compiled.py                      two minutes on 2 cores
    python benchmarks/kernel_compiled.py --architectures 90 --channels 64 --cases guided
    python benchmarks/kernel_compiled.py --show               the tables of the results kept so far

Every kernel that a call of attention would launch is compiled for each architecture. Told of each: registers of a
thread and the bytes that did not fit into them (*spilled*), shared memory of a program, instructions for tensor cores
and asynchronous copies. One line a case is appended to results/kernel_compiled.jsonl. The exit code is 1 if a kernel
does not compile, needs more shared memory than there is (for sm_80, than the smaller GPUs have that run its code), or
is in half precision without tensor cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Else the kernels would be interpreted.
os.environ["TRITON_INTERPRET"] = "0"

import torch
from torch import Tensor

from attention_guidance.loss import triton as backend
from attention_guidance.loss.statistics import GuidedAttention
from attention_guidance.patterns import First, Offset, Sequences, TokenClass
from attention_guidance.results import header

RESULTS = Path(__file__).parent / "results" / "kernel_compiled.jsonl"
# Bytes a program may have, by architecture. GPUs of sm_86 and sm_89 run what is compiled for sm_80 with 99 KiB.
SHARED_MEMORY = {80: 99 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CASES = ("unguided", "guided", "classes", "pairs", "log_mass", "dropout", "ones")
MATRIX_KERNELS = ("attend", "of_queries", "of_keys")
_BATCH, _HEADS, _LENGTH = 2, 4, 512


def main() -> None:
    arguments = _arguments()
    if arguments.show:
        if not arguments.results.exists():
            sys.exit(f"error: no results are kept in {arguments.results} yet")
        print(markdown([json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines()]))
        return
    if not backend.installed():
        print("error: Triton is not installed; pip install triton", file=sys.stderr)
        sys.exit(2)
    faults = []
    for architecture in arguments.architectures:
        for dtype in arguments.dtypes:
            for channels in arguments.channels:
                for case in arguments.cases:
                    record = _record(architecture, dtype, channels, case)
                    with arguments.results.open("a", encoding="utf-8") as file:
                        file.write(f"{json.dumps(record)}\n")
                    print(_lines([record]), flush=True)
                    faults += _faults(record)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def compiled(architecture: int, dtype: str, channels: int, case: str) -> list[dict[str, Any]]:
    """Each kernel of a call in a case, see `CASES`, and what became of it."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from attention_guidance.loss.triton import backward, forward
    from attention_guidance.loss.triton.geometry import geometry_of
    from attention_guidance.loss.triton.launch import Launch
    from attention_guidance.loss.triton.tiles import Prepared, prepare

    class Elsewhere:
        """A GPU that is not here, as far as the compiler asks."""

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", architecture, 32)

        def get_current_device(self) -> int:
            # What was compiled is remembered by device.
            return architecture

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_active_torch_device(self) -> torch.device:
            return torch.device("meta")

    driver.set_active(Elsewhere())
    found: list[dict[str, Any]] = []

    class Compiling:
        """In place of a kernel: is compiled where that would be launched."""

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def compile_only(*given: Any, **named: Any) -> None:
                result = self.kernel.warmup(*given, grid=grid, **named)
                found.append({"kernel": self.kernel.fn.__name__} | _told(result))

            return compile_only

    kernels = [(module, name) for module in (forward, backward) for name in (*MATRIX_KERNELS, "deltas")]
    kernels = [(module, name) for module, name in kernels if hasattr(module, name)]
    originals = [getattr(module, name) for module, name in kernels]
    try:
        for (module, name), original in zip(kernels, originals, strict=True):
            setattr(module, name, Compiling(original))
        call, heads = _call(DTYPES[dtype], channels, case)
        prepared = Prepared(*map(_elsewhere, prepare(call, geometry_of(channels, DTYPES[dtype]))))
        query, key, value = (_elsewhere(t) for t in (call.query_BHQD, call.key_BHKD, call.value_BHKD))
        mask = None if call.mask is None else _elsewhere(call.mask)
        seed = _elsewhere(torch.zeros(1, dtype=torch.long)) if call.dropout else None
        sizes = [n_heads for _, n_heads in call.groups]
        launch = Launch(query, key, value, mask, prepared, heads, sizes, call.scale, call.dropout, seed, call.log_mass)
        out, *rows = launch.forward(with_output=True)
        launch.backward([out, *rows], torch.empty_like(out), rows[0], rows[1])
    finally:
        for (module, name), original in zip(kernels, originals, strict=True):
            setattr(module, name, original)
    return found


def _call(dtype: torch.dtype, channels: int, case: str) -> tuple[GuidedAttention, list[int]]:
    """A call with half of the heads guided, or none, and which these are."""
    # Sizes of one become constants of the program.
    batch, n_heads, length = (1, 1, 1) if case == "ones" else (_BATCH, _HEADS, _LENGTH)
    sequences = Sequences(torch.ones(batch, length, dtype=torch.bool), torch.arange(length).expand(batch, -1) % 20)
    patterns = [TokenClass("stop", (5,)) if case == "classes" else Offset(1), First()]
    guided = 0 if case == "unguided" else min(2, n_heads)
    groups = tuple((pattern.targets(sequences), 1) for pattern in patterns[:guided])
    tensor = torch.empty(batch, length, n_heads, channels, dtype=dtype).transpose(1, 2)
    masked = case in ("pairs", "ones")
    mask = torch.ones(batch, 1, length, length, dtype=torch.bool) if masked else None
    dropout = 0.1 if case == "dropout" else 0.0
    heads = list(range(len(groups)))
    return (
        GuidedAttention(tensor, tensor, tensor, groups, channels**-0.5, mask, None, dropout, case == "log_mass"),
        heads,
    )


def _elsewhere(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta")


def _told(result: Any) -> dict[str, Any]:
    """What a compiled kernel says of itself."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(result.asm["cubin"])
        usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", usage)}
    text = result.asm["ptx"]
    return {
        "registers": used["REG"],
        "spilled_bytes": used["STACK"],
        "shared_memory_bytes": result.metadata.shared,
        "tensor_core_instructions": text.count("wgmma.mma_async") + text.count("mma.sync"),
        "asynchronous_copies": text.count("cp.async.c"),
        "warps": result.metadata.num_warps,
        "stages": result.metadata.num_stages,
    }


def _record(architecture: int, dtype: str, channels: int, case: str) -> dict[str, Any]:
    settings = {"architecture": architecture, "dtype": dtype, "channels": channels, "case": case}
    shared = {key: value for key, value in header("kernel compiled").items() if key != "command"}
    try:
        return shared | settings | {"kernels": compiled(architecture, dtype, channels, case)}
    except Exception as error:  # whatever a compiler may raise
        return shared | settings | {"kernels": [], "error": f"{type(error).__name__}: {error}".splitlines()[0]}


def _faults(record: dict[str, Any]) -> list[str]:
    name = f"sm_{record['architecture']}, {record['dtype']}, {record['channels']} channels, {record['case']}"
    if "error" in record:
        return [f"{name}: {record['error']}"]
    faults = []
    for kernel in record["kernels"]:
        needed, there_is = kernel["shared_memory_bytes"], SHARED_MEMORY[record["architecture"]]
        if needed > there_is:
            faults.append(f"{name}: {kernel['kernel']} needs {needed} bytes of shared memory of {there_is}")
        half = record["dtype"] != "fp32" and kernel["kernel"] in MATRIX_KERNELS
        if half and not kernel["tensor_core_instructions"]:
            faults.append(f"{name}: {kernel['kernel']} uses no tensor cores")
    return faults


def markdown(records: Iterable[dict[str, Any]]) -> str:
    """The newest results of each case as a table."""
    keys = ("architecture", "dtype", "channels", "case")
    newest = {tuple(record[key] for key in keys): record for record in records}
    columns = "architecture, dtype, channels, case, kernel, registers, spilled, shared memory, tensor cores, copies"
    head = "| " + " | ".join(columns.split(", ")) + " |\n|" + "---|" * 10
    return f"{head}\n{_lines(newest.values())}"


def _lines(records: Iterable[dict[str, Any]]) -> str:
    lines = []
    for record in records:
        name = f"| sm_{record['architecture']} | {record['dtype']} | {record['channels']} | {record['case']}"
        if "error" in record:
            lines.append(f"{name} | {record['error']} | | | | | |")
        lines += [
            f"{name} | {kernel['kernel']} | {kernel['registers']} | {kernel['spilled_bytes']} | "
            f"{kernel['shared_memory_bytes']} | {kernel['tensor_core_instructions']} | "
            f"{kernel['asynchronous_copies']} |"
            for kernel in record["kernels"]
            if kernel["kernel"] in MATRIX_KERNELS
        ]
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--architectures",
        type=int,
        nargs="+",
        choices=SHARED_MEMORY,
        default=[80, 90],
        help="compute capability (80 90)",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bf16"], help="default bf16")
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128], help="of a head (64 128)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="default all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--show", action="store_true", help="print the tables of the results kept so far")
    return parser.parse_args()


if __name__ == "__main__":
    main()
