"""What the compiler makes of the kernels, for GPUs that need not be here.

    python -m benchmarks.kernel.compiled                      five minutes on one core
    python -m benchmarks.kernel.compiled --architectures 90 --channels 64 --cases guided
    python -m benchmarks.kernel.compiled --show               the tables of the results kept so far

Every kernel that a call of attention would launch is compiled for each architecture: in bf16 all cases for heads of
64 and 128 channels, else a few. Told of each: registers of a thread and the bytes that did not fit into them
(*spilled*, bytes of stack), shared memory of a program, instructions for tensor cores (wgmma / mma), asynchronous
copies, and how long the compiler took. One line a case is appended to results/kernel_compiled.jsonl.

The exit code is 1 if a kernel does not compile, needs more shared memory than there is (for sm_80, than the smaller
GPUs have that run its code), or is in half precision without tensor cores; 2 if there is no compiler for NVIDIA GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Else the kernels would be interpreted.
os.environ["TRITON_INTERPRET"] = "0"
# Else what was compiled before would be read from the disk, and take no time.
os.environ.setdefault("TRITON_ALWAYS_COMPILE", "1")

import torch
from torch import Tensor

from attention_guidance.commands.results import header
from attention_guidance.loss import triton as backend
from attention_guidance.loss.call import AttentionCall
from attention_guidance.patterns import First, Offset, Sequences, TokenClass

from .. import BENCHMARKS
from ..turns import append

RESULTS = BENCHMARKS / "results" / "kernel_compiled.jsonl"
# Bytes a program may have, by architecture. GPUs of sm_86 and sm_89 run what is compiled for sm_80 with 99 KiB.
SHARED_MEMORY = {80: 99 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CASES = ("unguided", "guided", "classes", "pairs", "log_mass", "dropout", "ones")
MATRIX_KERNELS = ("attend", "of_queries", "of_keys")
CHANNELS = (32, 64, 96, 128)
# Heads of 32 and 96 channels, and what is not bf16, get enough to see that kernels compile.
_USUAL_CHANNELS = (64, 128)
_BATCH, _HEADS, _LENGTH = 2, 4, 512


def main() -> None:
    arguments = _arguments()
    if arguments.show:
        if not arguments.results.exists():
            sys.exit(f"error: no results are kept in {arguments.results} yet")
        print(markdown([json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines()]))
        return
    missing = _missing()
    if missing:
        print(f"error: {missing}", file=sys.stderr)
        sys.exit(2)
    print(_HEAD)
    faults = []
    for setting in _settings(arguments):
        record = _record(*setting)
        append(arguments.results, [record])
        print(_lines([record]), flush=True)
        faults += _faults(record)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def _settings(arguments: argparse.Namespace) -> Iterator[tuple[int, str, int, str]]:
    """Architecture, dtype, channels and case of each call; what was not asked for by name is kept small."""
    for architecture in arguments.architectures:
        for dtype in arguments.dtypes or DTYPES:
            for channels in arguments.channels or (CHANNELS if dtype == "bf16" else _USUAL_CHANNELS):
                for case in arguments.cases or _usual_cases(dtype, channels):
                    yield architecture, dtype, channels, case


def _usual_cases(dtype: str, channels: int) -> tuple[str, ...]:
    if dtype != "bf16":
        return ("guided",)
    return CASES if channels in _USUAL_CHANNELS else ("unguided", "guided", "pairs")


def _missing() -> str | None:
    """What the compiler lacks here, if anything."""
    if not backend.installed():
        return "Triton is not installed; pip install triton"
    lacking = [name for name in ("ptxas", "cuobjdump") if not (_tools() / name).exists()]
    return f"this Triton has no {lacking[0]}: it cannot compile for NVIDIA GPUs" if lacking else None


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compiled(architecture: int, dtype: str, channels: int, case: str) -> list[dict[str, Any]]:
    """Each kernel of a call in a case, see `CASES`, and what became of it."""
    from triton import knobs
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
    seconds: list[float] = []

    def listen(times: Any, cache_hit: bool, **rest: Any) -> None:
        if not cache_hit:
            seconds.append(times.total / 1e6)

    class Compiling:
        """In place of a kernel: is compiled where that would be launched."""

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def compile_only(*given: Any, **named: Any) -> None:
                seconds.clear()
                told: dict[str, Any] = {"kernel": self.kernel.fn.__name__}
                try:
                    result = self.kernel.warmup(*given, grid=grid, **named)
                except Exception as error:  # whatever a compiler may raise; the other kernels are still tried
                    told["error"] = _in_one_line(error)
                else:
                    # None for what was compiled before.
                    told |= _told(result) | {"seconds": round(seconds[0], 2) if seconds else None}
                found.append(told)

            return compile_only

    kernels = [(module, name) for module in (forward, backward) for name in (*MATRIX_KERNELS, "deltas")]
    kernels = [(module, name) for module, name in kernels if hasattr(module, name)]
    originals = [getattr(module, name) for module, name in kernels]
    try:
        knobs.compilation.listener = listen
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
        knobs.compilation.listener = None
        for (module, name), original in zip(kernels, originals, strict=True):
            setattr(module, name, original)
    return found


def _call(dtype: torch.dtype, channels: int, case: str) -> tuple[AttentionCall, list[int]]:
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
        AttentionCall(tensor, tensor, tensor, groups, channels**-0.5, mask, None, dropout, case == "log_mass"),
        heads,
    )


def _elsewhere(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta")


def _told(result: Any) -> dict[str, Any]:
    """What a compiled kernel says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(result.asm["cubin"])
        command = [str(_tools() / "cuobjdump"), "-res-usage", str(binary)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK):(\d+)", usage)}
    text = result.asm["ptx"]
    return {
        "registers": used["REG"],
        "spilled_bytes": used["STACK"],
        "shared_memory_bytes": result.metadata.shared,
        "wgmma": text.count("wgmma.mma_async"),
        "mma": text.count("mma.sync"),
        # What commits them to a group, cp.async.commit_group, copies nothing.
        "asynchronous_copies": text.count("cp.async.ca.") + text.count("cp.async.cg."),
        "warps": result.metadata.num_warps,
        "stages": result.metadata.num_stages,
    }


def _record(architecture: int, dtype: str, channels: int, case: str) -> dict[str, Any]:
    from triton import __version__

    shared = {key: value for key, value in header("kernel compiled").items() if key != "command"}
    shared["versions"] |= {"triton": __version__}
    settings = {"architecture": architecture, "dtype": dtype, "channels": channels, "case": case}
    return shared | settings | {"kernels": compiled(architecture, dtype, channels, case)}


def _in_one_line(error: BaseException) -> str:
    """What the compiler minds, without the source of the kernels that called the one it minds."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = getattr(error, "error_message", None) or str(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"[:300]


def _faults(record: dict[str, Any]) -> list[str]:
    name = f"sm_{record['architecture']}, {record['dtype']}, {record['channels']} channels, {record['case']}"
    there_is = SHARED_MEMORY[record["architecture"]]
    faults = []
    for kernel in record["kernels"]:
        if "error" in kernel:
            faults.append(f"{name}: {kernel['kernel']} does not compile: {kernel['error']}")
            continue
        needed = kernel["shared_memory_bytes"]
        if needed > there_is:
            faults.append(f"{name}: {kernel['kernel']} needs {needed} bytes of shared memory of {there_is}")
        half = record["dtype"] != "fp32" and kernel["kernel"] in MATRIX_KERNELS
        if half and not kernel["wgmma"] + kernel["mma"]:
            faults.append(f"{name}: {kernel['kernel']} uses no tensor cores")
    return faults


_COLUMNS = (
    *("architecture", "dtype", "channels", "case", "kernel", "registers", "spilled", "shared memory"),
    *("wgmma / mma", "copies", "seconds"),
)
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"


def markdown(records: Iterable[dict[str, Any]]) -> str:
    """The newest results of each case as a table."""
    keys = ("architecture", "dtype", "channels", "case")
    newest = {tuple(record[key] for key in keys): record for record in records}
    return f"{_HEAD}\n{_lines(newest.values())}"


def _lines(records: Iterable[dict[str, Any]]) -> str:
    lines = []
    for record in records:
        name = f"| sm_{record['architecture']} | {record['dtype']} | {record['channels']} | {record['case']}"
        for kernel in record["kernels"]:
            if "error" in kernel:
                told = [kernel["error"].replace("|", "\\|"), *[""] * 5]
            elif kernel["kernel"] in MATRIX_KERNELS:
                told = [kernel[key] for key in ("registers", "spilled_bytes", "shared_memory_bytes")]
                seconds = "" if kernel["seconds"] is None else f"{kernel['seconds']:.1f}"
                told += [f"{kernel['wgmma']} / {kernel['mma']}", kernel["asynchronous_copies"], seconds]
            else:
                continue
            lines.append(f"{name} | {kernel['kernel']} | {' | '.join(map(str, told))} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.kernel.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--architectures",
        type=int,
        nargs="+",
        choices=SHARED_MEMORY,
        default=[80, 90],
        help="compute capability (80 90)",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default all")
    parser.add_argument("--channels", type=int, nargs="+", help="of a head (default 64 128, in bf16 also 32 96)")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, help="default all in bf16 with 64 and 128 channels, else few"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--show", action="store_true", help="print the tables of the results kept so far")
    return parser.parse_args()


if __name__ == "__main__":
    main()
