"""One of two processes that train a guided model together, for test_distributed.py; also the model and its batches.

    python worker.py FOLDER RANK

leaves `CASE.pt` in the folder for each case: the mean loss of the ranks and the full gradients, as rank 0 has them.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForMaskedLM

from attention_guidance import RelativeWeight, get_guidance, guide

HEADS = "next:1 previous:1 first:1"
RANKS = 2


def build() -> BertForMaskedLM:
    """A tiny model in double precision, the same in every process; sharp queries and keys make the guidance count."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForMaskedLM(config).double().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".query.weight" in name or ".key.weight" in name:
                parameter.mul_(8)
    return model


def micro_batches(padding: str) -> list[dict[str, torch.Tensor]]:
    """Four micro-batches of three sequences with two labels each; `padding` is `none` or `uneven`."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(4):
        ids = torch.randint(5, 64, (3, 10), generator=generator)
        mask = torch.ones_like(ids)
        if padding == "uneven":
            mask[:, 10 - 2 * number :] = 0
        labels = torch.full_like(ids, -100)
        labels[:, 1:3] = ids[:, 1:3]
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def joined(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def share_of(rank: int, padding: str) -> list[dict[str, torch.Tensor]]:
    """The two micro-batches of a rank."""
    return micro_batches(padding)[2 * rank : 2 * rank + 2]


def ddp(first: str, weight: float | RelativeWeight = 1.0) -> torch.nn.Module:
    model = build()
    if first == "guide":
        guide(model, HEADS, weight)
    wrapped = DistributedDataParallel(model)
    if first == "wrap":
        guide(model, HEADS, weight)
    return wrapped


def fsdp(first: str, weight: float | RelativeWeight = 1.0) -> torch.nn.Module:
    model = build()
    if first == "guide":
        guide(model, HEADS, weight)
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    if first == "wrap":
        guide(model, HEADS, weight)
    return model


def without_sync(model: torch.nn.Module, last: bool):
    """Leave gradients on their ranks until the last micro-batch."""
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    model.set_requires_gradient_sync(last)
    return nullcontext()


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def run_case(wrap, first: str, padding: str, accumulate: bool, rank: int) -> dict[str, object]:
    model = wrap(first)
    share = share_of(rank, padding)
    batches = share if accumulate else [joined(share)]
    mean_loss = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(batches):
        with without_sync(model, number == len(batches) - 1):
            loss = model(**batch).loss / len(batches)
            loss.backward()
        mean_loss += loss.detach() / RANKS
    dist.all_reduce(mean_loss)
    gradients = {
        name.removeprefix("module."): full(parameter.grad) for name, parameter in sorted(model.named_parameters())
    }
    return {"loss": mean_loss.item(), "gradients": gradients}


CASES = {
    f"{wrap.__name__}-{first}-first-{padding}-padding{'-accumulated' if accumulate else ''}": (
        wrap,
        first,
        padding,
        accumulate,
    )
    for wrap in (ddp, fsdp)
    for first in ("guide", "wrap")
    for padding in ("none", "uneven")
    for accumulate in (False, True)
}


RELATIVE = RelativeWeight(0.02)


def relative_weight(wrap, batches: list[dict[str, torch.Tensor]]) -> float:
    """The weight after a step of these micro-batches."""
    model = wrap("wrap", RELATIVE)
    for number, batch in enumerate(batches):
        with without_sync(model, number == len(batches) - 1):
            (model(**batch).loss / len(batches)).backward()
    guidance = get_guidance(model)
    guidance.step()
    return guidance.weight


def main(folder: Path, rank: int) -> None:
    # A file is where they meet: no port that someone else may take.
    dist.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    for name, case in CASES.items():
        result = run_case(*case, rank=rank)
        if rank == 0:
            torch.save(result, folder / f"{name}.pt")
    for wrap in (ddp, fsdp):
        weight = relative_weight(wrap, share_of(rank, "none"))
        torch.save(weight, folder / f"relative-{wrap.__name__}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
