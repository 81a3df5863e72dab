"""The command line, of which one process of several spoils its part of a step: a loss, or a gradient.

The arguments before those of the command are what is spoiled (`loss` or `gradient`), the process and the step, from 1.
"""

import math
import sys
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining.distributed import processes

_step = Trainer.training_step


def spoiled(trainer: Trainer, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    loss = _step(trainer, model, *args, **kwargs)
    if processes.number() == process and trainer.state.global_step == step - 1:
        if what == "loss":
            return loss * math.inf
        # The gradient is reduced already: it is spoiled in this process alone.
        next(parameter for parameter in model.parameters() if parameter.grad is not None).grad[0, 0] = math.nan
    return loss


if __name__ == "__main__":
    what, process, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    Trainer.training_step = spoiled
    main(sys.argv[4:])
