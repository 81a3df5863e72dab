"""What `step.py` lets take turns: one model an arm, all with the same weights, and the training step it makes.

Run as a program, it makes a few steps of one arm and prints their peak memory, see `peak_memory`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForMaskedLM

from attention_guidance import GuidanceError, guide
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.pretraining.loop.peak_memory import peak_mib, resident_mib
from attention_guidance.loss.backends import Name

from .. import BENCHMARKS

SEED = 1
WEIGHT = 0.1
LABELLED = 0.15
UNGUIDED, NAIVE = "unguided", "naive"
CANNOT_SERVE = (GuidanceError, ImportError, RuntimeError)  # what a backend raises where it cannot run
_STEPS_FOR_MEMORY = 3
_PADDING, _FIRST_WORD = 1, 5


@dataclass(frozen=True)
class Setting:
    """The size of a step, and on what it runs.

    Attributes:
        layers: layers of the model.
        hidden: its width; four times that between the layers.
        heads: attention heads of a layer, half of them guided.
        vocabulary: tokens of the vocabulary.
        masked_head: project to the vocabulary at the labelled positions only, as `pretrain` does.
        tokens: tokens a step.
        length: tokens a sequence.
        positions: the longest sequence that the model has position embeddings for.
        dtype: `fp32`, or `bf16` for autocast.
        device: `cpu` or `cuda`.
        threads: threads of torch on a CPU.
    """

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    masked_head: bool
    tokens: int
    length: int
    positions: int
    dtype: str
    device: str
    threads: int

    @property
    def guided(self) -> str:
        """The assignment of heads: half of each layer's, in equal parts."""
        return f"next:{self._part} previous:{self._part} first:{self._part}"

    @property
    def groups(self) -> tuple[tuple[slice, Tensor], ...]:
        """The same heads with the targets of all queries, [T, T], as the authors write them down."""
        ones, part = torch.ones(self.length - 1, device=self.device), self._part
        first = torch.zeros(self.length, self.length, device=self.device)
        first[:, 0] = 1
        targets = (torch.diag(ones, 1), torch.diag(ones, -1), first)
        return tuple((slice(index * part, (index + 1) * part), target) for index, target in enumerate(targets))

    @property
    def _part(self) -> int:
        return max(1, self.heads // 6)


class Arm:
    """A model in training: `unguided`, `naive`, or guided by the backend of that name.

    The naive arm is the authors' way: all attention maps of eager attention are returned, and each group of heads has
    its ``MSELoss`` against targets that are repeated to (batch, heads, T, T).

    Args:
        name: the arm.
        setting: the size of its step.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self._setting = setting
        self._size = (setting.tokens // setting.length, setting.length)
        torch.manual_seed(SEED)
        config = RobertaConfig(
            vocab_size=setting.vocabulary,
            hidden_size=setting.hidden,
            num_hidden_layers=setting.layers,
            num_attention_heads=setting.heads,
            intermediate_size=4 * setting.hidden,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=setting.positions + _PADDING + 1,
            type_vocab_size=1,
            pad_token_id=_PADDING,
            attn_implementation="eager" if name == NAIVE else "sdpa",
        )
        self._model: Any = RobertaForMaskedLM(config).to(setting.device).train()
        if setting.masked_head:
            MaskedHead(self._model)
        if name not in (UNGUIDED, NAIVE):
            guide(self._model, setting.guided, weight=WEIGHT, backend=cast(Name, name))
        self._groups = setting.groups if name == NAIVE else ()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)
        self._batch = self._draw()

    def step(self) -> float:
        """One training step; its seconds, all of the device's work included."""
        self._wait_for_gpu()
        begin = time.perf_counter()
        self._train()
        self._wait_for_gpu()
        return time.perf_counter() - begin

    def first_step(self) -> float:
        """One training step; its loss."""
        return self._train().item()

    def _wait_for_gpu(self) -> None:
        if self._setting.device == "cuda":
            torch.cuda.synchronize()

    def _train(self) -> Tensor:
        with torch.autocast(self._setting.device, torch.bfloat16, enabled=self._setting.dtype == "bf16"):
            loss = self._loss()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.detach()

    def _loss(self) -> Tensor:
        outputs = self._model(**self._batch, output_attentions=bool(self._groups))
        loss: Tensor = outputs.loss
        for maps_BHQK in outputs.attentions or ():
            for heads, target_QK in self._groups:
                guided_BHQK = maps_BHQK[:, heads]
                target_BHQK = target_QK.repeat(*guided_BHQK.shape[:2], 1, 1)
                loss = loss + WEIGHT * nn.MSELoss()(guided_BHQK, target_BHQK)
        return loss

    def _draw(self) -> dict[str, Tensor]:
        """Random tokens, the same for every arm, with as many labels in each sequence."""
        chance = torch.Generator().manual_seed(SEED)
        ids_BT = torch.randint(_FIRST_WORD, self._setting.vocabulary, self._size, generator=chance)
        order_BT = torch.rand(self._size, generator=chance).argsort(-1)
        labels_BT = ids_BT.masked_fill(order_BT >= round(LABELLED * self._setting.length), -100)
        return {"input_ids": ids_BT.to(self._setting.device), "labels": labels_BT.to(self._setting.device)}


def peak_memory(name: str, setting: Setting) -> float:
    """The most memory an arm takes in its first steps, beyond the bare interpreter; measured in a process of its own.

    Args:
        name: the arm.
        setting: the size of its step.

    Returns:
        MiB: of the process on a CPU, of the allocator on a GPU.

    Raises:
        RuntimeError: the process failed; carries its last words.
    """
    request = json.dumps({"name": name, "setting": asdict(setting)})
    # Freed blocks go back to the system: else the peak is as much the allocator's luck as the arm's.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
    process = subprocess.run(
        [sys.executable, "-m", __name__],
        input=request,
        capture_output=True,
        text=True,
        env=environment,
        cwd=BENCHMARKS.parent,
    )
    if process.returncode:
        last_words = process.stderr.strip().splitlines() or [f"exit code {process.returncode}"]
        raise RuntimeError(last_words[-1])
    return float(process.stdout.strip().splitlines()[-1])


def _measure(name: str, setting: Setting) -> float:
    torch.set_num_threads(setting.threads)
    before = resident_mib()
    arm = Arm(name, setting)
    for _ in range(_STEPS_FOR_MEMORY):
        arm.step()
    return torch.cuda.max_memory_allocated() / 2**20 if setting.device == "cuda" else peak_mib() - before


def in_one_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    try:
        print(_measure(asked["name"], Setting(**asked["setting"])))
    except CANNOT_SERVE as error:
        sys.exit(in_one_line(error))
