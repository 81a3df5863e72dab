"""Other means to the same effect, each a change to the model of a run without guidance.

All of them serve the heads that `next:1 previous:1` guides: head 0 of each layer the next token, head 1 the previous.

Shape suffixes: H heads, T positions, D width of the model, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.masking_utils import sdpa_mask

from attention_guidance.schedules import Schedule

if TYPE_CHECKING:
    from attention_guidance.commands.pretraining.run import Run

#: The offset of the key that each head attends to, by head.
OFFSETS = {0: 1, 1: -1}
# Added to the score of a target by the prior: it then has 86 % of the attention, if all other scores are equal.
_STRENGTH = 6.0
# What takes away all attention in half precision too.
_NEVER = -1e4
# Radians a position. The sum of their cosines is highest at 0 by far, within 64 positions.
_FREQUENCIES = (2.8, 1.9, 1.3, 0.85, 0.55, 0.3, 0.15, 0.08)
# The amplitude of these positions; tokens have a standard deviation of 0.02.
_AMPLITUDE = 0.1


class Change(TrainerCallback):  # type: ignore[misc]
    """A change that is made once, before training.

    Args:
        run: The run, before it trains.
    """

    def __init__(self, run: Run) -> None:
        self.model = run.model
        self.total = run.config.max_steps
        self.layers = [layer.attention for layer in run.model.base_model.encoder.layer]
        self.generator = torch.Generator().manual_seed(run.config.seed)
        with torch.no_grad():
            self.make()

    def make(self) -> None:
        """Change the model."""
        raise NotImplementedError


class _Biased(Change):
    """A term is added to the scores of the heads."""

    def make(self) -> None:
        """Let every layer compute its attention with its bias."""
        AttentionInterface.register("evidence", _biased_attention)
        AttentionMaskInterface.register("evidence", sdpa_mask)
        self.model.set_attn_implementation("evidence")
        n_positions, n_heads = self.model.config.max_position_embeddings, self.model.config.num_attention_heads
        self.targets_HTT = torch.zeros(n_heads, n_positions, n_positions)
        for head, offset in OFFSETS.items():
            self.targets_HTT[head] = torch.diag(torch.ones(n_positions - abs(offset)), offset)
        self.set_bias(self.bias(0))

    def set_bias(self, bias_HTT: Tensor) -> None:
        """Use a bias from now on."""
        for layer in self.layers:
            layer.self.evidence_bias = bias_HTT

    def bias(self, step: int) -> Tensor:
        """The term at a step, [H, T, T]."""
        raise NotImplementedError


def _biased_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    n = query.shape[2]
    bias_HTT: Tensor = module.evidence_bias[:, :n, :n].to(query.dtype)  # type: ignore[index, assignment]
    if attention_mask is not None:
        bias_HTT = bias_HTT.masked_fill(~attention_mask, _NEVER)
    attended = nn.functional.scaled_dot_product_attention(query, key, value, bias_HTT, dropout, scale=scaling)
    return attended.transpose(1, 2).contiguous(), None


class FixedHeads(_Biased):
    """The heads attend to their target alone, for ever; a query without one attends freely."""

    def bias(self, step: int) -> Tensor:
        """See `_Biased`."""
        has_target_HT1 = self.targets_HTT.any(-1, keepdim=True)
        return torch.where(has_target_HT1 & (self.targets_HTT == 0), _NEVER, 0.0)


class AnnealedPrior(_Biased):
    """The scores of targets begin higher; what is added decays as the weight of guidance does."""

    def bias(self, step: int) -> Tensor:
        """See `_Biased`."""
        strength: float = _STRENGTH * Schedule("hold-then-linear").factor(step, self.total)
        bias_HTT: Tensor = strength * self.targets_HTT
        return bias_HTT

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Decay."""
        self.set_bias(self.bias(state.global_step))


def _factors(product_DD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of that rank, [rank, D] each, such that A.T @ B is next to the product."""
    u, s, vh = torch.linalg.svd(product_DD)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).T, vh[:rank] * root[:, None]


class Mimetic(Change):
    """Query and key begin near to each other, value and output near to the opposite (Trockman and Kolter 2023).

    With the constants of that paper, 0.7 and 0.4, and its sinusoidal positions.
    """

    def make(self) -> None:
        """See `Change`."""
        d = self.model.config.hidden_size
        k = d // self.model.config.num_attention_heads
        for layer in self.layers:
            for head in range(d // k):
                rows = slice(head * k, (head + 1) * k)
                query_KD, key_KD = _factors(0.7 * self._noise(d) + 0.7 * torch.eye(d), k)
                layer.self.query.weight[rows], layer.self.key.weight[rows] = query_KD, key_KD
            value_DD, output_DD = _factors(0.4 * self._noise(d) - 0.4 * torch.eye(d), d)
            layer.self.value.weight.copy_(value_DD)
            layer.output.dense.weight.copy_(output_DD.T)
        frequencies = 10_000 ** -(torch.arange(d // 2) / (d // 2))
        # As large as those that they take the place of.
        _set_positions(self.model, frequencies, 2**0.5 * self.model.config.initializer_range)

    def _noise(self, d: int) -> Tensor:
        noise_DD: Tensor = torch.randn(d, d, generator=self.generator) / d**0.5
        return noise_DD


def _set_positions(model: Any, frequencies: Tensor, amplitude: float) -> None:
    """Make the first learned dimensions of the positions sinusoids: all sines, then all cosines."""
    table_TD = model.base_model.embeddings.position_embeddings.weight
    angles = torch.arange(len(table_TD))[:, None] * frequencies
    table_TD[:, : 2 * len(frequencies)] = amplitude * torch.cat([angles.sin(), angles.cos()], 1)


class Positions(Change):
    """The positions begin as those of `PatternedWeights`, and nothing else is changed."""

    def make(self) -> None:
        """See `Change`."""
        _set_positions(self.model, torch.tensor(_FREQUENCIES), _AMPLITUDE)


class PatternedWeights(Positions):
    """Query and key of the heads begin such that they attend to their target, and learn from there."""

    def make(self) -> None:
        """See `Change`."""
        super().make()
        frequencies = torch.tensor(_FREQUENCIES)
        n, k = len(frequencies), self.model.config.hidden_size // self.model.config.num_attention_heads
        if 2 * n > k:
            raise ValueError(f"a head of width {k} has no room for {n} frequencies")
        for layer in self.layers:
            for head, offset in OFFSETS.items():
                rows = slice(head * k, head * k + 2 * n)
                cos, sin = torch.diag((offset * frequencies).cos()), torch.diag((offset * frequencies).sin())
                # Adding an angle turns each pair of sine and cosine.
                turn = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
                for projection, matrix in (layer.self.query, turn), (layer.self.key, torch.eye(2 * n)):
                    projection.weight[head * k : (head + 1) * k] = 0.0
                    projection.weight[rows, : 2 * n] = matrix


CHANGES: dict[str, Callable[[Any], Change]] = {
    "fixed": FixedHeads,
    "prior": AnnealedPrior,
    "mimetic": Mimetic,
    "positions": Positions,
    "weights": PatternedWeights,
}
