"""Measure the peak memory of a few training steps in a separate process."""

from __future__ import annotations

import dataclasses
import json
import resource
import subprocess
import sys
from pathlib import Path

from attention_guidance.commands.pretraining.settings.config import RunConfig

_STEPS = 3


def peak_memory(config: RunConfig, tokenizer: Path) -> float:
    """Measure the peak memory of training, without that of the interpreter and its libraries.

    Args:
        config: Settings of the run; with empty `heads`, it is measured without guidance.
        tokenizer: Folder of its tokenizer.

    Returns:
        MiB: of the process on a CPU, of the allocator on a GPU.

    Raises:
        RuntimeError: The process failed; the message has the last line of its standard error.
    """
    request = json.dumps({"config": dataclasses.asdict(config), "tokenizer": str(tokenizer)})
    # -P: a torch.py in the current folder must not be run as torch.
    command = [sys.executable, "-P", "-m", __name__]
    process = subprocess.run(command, input=request, capture_output=True, text=True)  # noqa: S603 (nothing from outside)
    if process.returncode:
        reason = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(f"measuring peak memory failed: {reason[-1]}")
    return float(process.stdout.strip().splitlines()[-1])


def _measure(config: RunConfig, tokenizer_folder: str) -> float:
    import torch
    from transformers import set_seed

    from attention_guidance.commands.objectives.base import validation_batches
    from attention_guidance.commands.pretraining.model import guide_as_configured, new_model, told_by
    from attention_guidance.commands.pretraining.preparation.objective import objective_of, random_items
    from attention_guidance.commands.pretraining.preparation.vocabulary import inheritance, replaced_tokenizer
    from attention_guidance.commands.pretraining.settings.arguments import choose_precision
    from attention_guidance.commands.tokenization.byte_level import load_tokenizer

    on_gpu = torch.cuda.is_available()
    set_seed(0)
    is_text = (Path(tokenizer_folder) / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(tokenizer_folder) if is_text else None
    objective = objective_of(config, tokenizer)
    before = resident_mib()
    known = {} if tokenizer is None else told_by(tokenizer)
    replaced = replaced_tokenizer(config)
    inherited = replaced and tokenizer and inheritance(str(config.init_from), replaced, tokenizer)
    model = new_model(config, objective, known, inherited).train()
    if on_gpu:
        model = model.cuda()
    if config.heads:
        guide_as_configured(model, objective, config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    n_examples = config.batch_size // config.accumulation
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(config.precision))
    for _ in range(_STEPS):
        batch = next(validation_batches(random_items(config, tokenizer, n_examples), objective, n_examples))
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_mib() - before


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB.

    On Linux it is read from `VmHWM`, since `ru_maxrss` starts at the peak of the parent process.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    except (OSError, IndexError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mib() -> float:
    """Current resident memory in MiB; the peak so far if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_mib()
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(_measure(RunConfig(**request["config"]), request["tokenizer"]))
