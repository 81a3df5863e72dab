"""The machine-readable results of all commands: the keys that they share, and atomic writing.

Every command writes through this module, so that what cannot be written is one error that names it.
"""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from attention_guidance import files
from attention_guidance.commands.memory import ran_out
from attention_guidance.commands.secrets import all_masked, masked
from attention_guidance.errors import FailedRunError, SaveError, reason_of

SCHEMA_VERSION = 1


def header(kind: str) -> dict[str, Any]:
    """The keys that every result has: schema version, kind, date, versions, device and command."""
    import torch

    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{processor()}, {torch.get_num_threads()} threads"
    )
    packages = ("attention-guidance", "torch", "transformers", "tokenizers", "accelerate")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "device": device,
        "command": shlex.join(["attention-guidance", *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    """The version of a package; None if it is not installed but runs from its source."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, without secrets, see `secrets.masked`; a number that is not finite becomes null.

    Texts are masked one by one: in JSON, quotes and backslashes are escaped, so that a secret would not be found, or
    only half of an escape would be masked.
    """
    write_data_json(path, all_masked(content))


def write_data_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON of labels and features, which stay as they are; see `write_data`."""
    write_data(path, json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file as `write_data` does, without secrets: see `secrets.masked`."""
    write_data(path, masked(text))


def write_data(path: Path, text: str) -> None:
    r"""Write a file atomically: also after a crash or on a full disk, it has the old content or all of the new.

    For texts and predictions, which stay as they are.

    A lone surrogate (from a file name that is not UTF-8) is written as `\udcff`, which JSON reads as the same text.

    Raises:
        SaveError: The file cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; see `write_text`."""
    with whole_file(path) as file, writing(path):
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """`files.whole_file`, which makes the folder too."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(path) as file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert the error of a block that writes a file or folder to one that names it, whichever library raised it.

    Raises:
        SaveError: The block raised such an error. Of nested blocks, the outer one names what could not be written.
    """
    try:
        yield
    except Exception as error:
        if not _of_writing(error):
            raise
        cause = error.__cause__ if isinstance(error, SaveError) and isinstance(error.__cause__, Exception) else error
        raise SaveError(f"could not write {path}: {reason_of(cause)}") from cause


def _of_writing(error: Exception) -> bool:
    """Whether a library raises an error of this type if it cannot write a file."""
    if isinstance(error, FailedRunError) or ran_out(error):
        return isinstance(error, SaveError)
    # Of Python, of torch, of safetensors, and the bare exceptions of tokenizers.
    return (
        isinstance(error, OSError | RuntimeError)
        or type(error).__name__ == "SafetensorError"
        or type(error) is Exception
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def processor() -> str:
    """The name of the processor, or of its architecture if the system does not give one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
