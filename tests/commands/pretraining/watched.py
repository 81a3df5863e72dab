"""The command line, which at the end of a run writes beside its results what share of it each process holds."""

import sys
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from attention_guidance.commands import results
from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining.distributed import processes
from attention_guidance.commands.pretraining.run import Run

_finish = Run.finish


def held(tensors: list[Tensor]) -> float:
    """Which part of these tensors is here."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() for tensor in local) / sum(tensor.numel() for tensor in tensors)


def finish(run: Run) -> dict[str, Any]:
    moments = [values["exp_avg"] for values in run.trainer.optimizer.state_dict()["state"].values()]
    held_here = {"parameters": held(list(run.model.parameters())), "moments": held(moments)}
    results.write_json(run.folder.path / f"held-{processes.number()}.json", held_here)
    return _finish(run)


if __name__ == "__main__":
    Run.finish = finish
    main(sys.argv[1:])
