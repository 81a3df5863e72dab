"""Head similarity: Jensen-Shannon divergence of heads, and their 2D embedding.

After Clark et al. 2019 ("What Does BERT Look At?", section 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attention_guidance.analysis.given import Batch, batches_of
from attention_guidance.analysis.observe import Observation, as_computed, attention_map, observing
from attention_guidance.errors import AttachError, ConfigError
from attention_guidance.loss.call import AttentionCall
from attention_guidance.patterns.targets import sums_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = npt.NDArray[np.float64]

# Rows compared per sequence: rows of the same sequence are largely redundant.
_ROWS = 16


def head_divergence(
    model: nn.Module,
    batches: Iterable[Batch] | Batch,
    *,
    rows: int = 256,
    seed: int = 1,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Array:
    """The mean Jensen-Shannon divergence between the attention of every pair of heads, over a sample of rows.

    Examples:
        >>> head_divergence(model, batches, rows=64).shape  # all heads of the model with each other
        (8, 8)

    Args:
        model: any unguided model that `guide` accepts; it is left unchanged.
        batches: inputs of the model, as in `take_census`; read until there are enough rows, 16 from each sequence of
            each attention call.
        rows: number of rows to compare; the time is proportional to `rows` times the square of the number of heads.
        seed: seed for the choice of rows.
        tokenizer: the model's tokenizer, required for texts.

    Returns:
        [N, N] in nats, with heads ordered by layer, then head; 0 on the diagonal, at most ln 2.

    Raises:
        AttachError: the model is guided or cannot be observed, or its layers attend within windows of different sizes.
        ConfigError: no batch, or an invalid one.
    """
    sample = _Sample(rows, torch.Generator().manual_seed(seed))
    total: Tensor | None = None
    done = 0
    with observing(model, sample.see) as watched:
        for batch in batches_of(batches, tokenizer):
            sample.begin(batch, watched)
            watched(batch)
            for map_NRK in sample.maps():
                divergence_NN = _summed_divergence(map_NRK)
                total = divergence_NN if total is None else total + divergence_NN
                done += map_NRK.shape[1]
            if done >= rows:
                break
    if total is None:
        raise ConfigError("batches is empty; give at least one batch to compare heads on")
    return np.asarray((total / done).numpy(), np.float64)


class _Sample:
    """The rows of a forward pass on which heads are compared: the same rows in every layer.

    Args:
        wanted: number of rows over all forward passes.
        generator: random generator for the choice of rows.
    """

    def __init__(self, wanted: int, generator: torch.Generator) -> None:
        self.wanted, self.generator = wanted, generator

    def begin(self, batch: Mapping[str, Any], watched: Observation) -> None:
        """Call before the forward pass of a batch."""
        self.current = watched.forward_pass(batch)
        # For each call: its shape, and the sampled sequences with their queries.
        self.calls: list[tuple[torch.Size, list[tuple[int, Tensor]]]] = []
        self.seen: dict[int, list[list[Tensor]]] = {}

    def see(self, layer: int, call: AttentionCall) -> None:
        """Sample the rows of one attention call of a layer."""
        map_BHQK = attention_map(call)
        of_layer = self.seen.setdefault(layer, [])
        number = len(of_layer)
        if layer == next(iter(self.seen)):
            self.calls.append((map_BHQK.shape, self._rows(call)))
        if number >= len(self.calls) or self.calls[number][0] != map_BHQK.shape:
            raise AttachError(
                f"layer {layer} attends within windows of a different size than earlier layers, so their heads cannot "
                "be compared row by row"
            )
        of_layer.append([map_BHQK[sequence][:, at_R].cpu() for sequence, at_R in self.calls[number][1]])

    def _rows(self, call: AttentionCall) -> list[tuple[int, Tensor]]:
        """Sample rows of a call: sequence indices, each with the positions of its sampled tokens."""
        valid_BT, _ = self.current.targets((), as_computed(call))
        result = []
        for sequence, valid_T in enumerate(valid_BT.cpu()):
            places = valid_T.nonzero()[:, 0]
            n_rows = min(_ROWS, self.wanted, len(places))
            if n_rows > 0:
                result.append((sequence, places[torch.randperm(len(places), generator=self.generator)[:n_rows]]))
                self.wanted -= n_rows
        return result

    def maps(self) -> Iterator[Tensor]:
        """Yield the sampled rows of each sequence for all heads, by layer: [N, R, K]."""
        for number, (_, taken) in enumerate(self.calls):
            for part in range(len(taken)):
                yield torch.cat([self.seen[layer][number][part] for layer in sorted(self.seen)])


def _summed_divergence(map_NRK: Tensor) -> Tensor:
    """Sum over rows of ``H((p + q) / 2) - (H(p) + H(q)) / 2`` for every pair of heads, float64 [N, N]."""
    n_heads = len(map_NRK)
    entropy_N = torch.special.entr(map_NRK).sum(-1).sum(-1, dtype=sums_dtype(map_NRK.device))
    result = torch.zeros(n_heads, n_heads, dtype=torch.float64)
    for head in range(n_heads - 1):
        middle = (map_NRK[head] + map_NRK[head + 1 :]) / 2
        of_middle = torch.special.entr(middle).sum(-1).sum(-1, dtype=sums_dtype(map_NRK.device))
        result[head, head + 1 :] = of_middle - (entropy_N[head] + entropy_N[head + 1 :]) / 2
    return (result + result.T).clamp_(min=0)


def head_positions(divergence_NN: Array) -> Array:
    """Embed heads in the plane so that distances approximate the square root of their divergence.

    Classical multidimensional scaling (Torgerson 1952); the square root of the divergence is a metric.

    Examples:
        >>> head_positions(head_divergence(model, batches)).shape
        (8, 2)

    Args:
        divergence_NN: the result of `head_divergence`.

    Returns:
        [N, 2], centred; the first axis has the largest variance. Signs are fixed, so that the result is deterministic.
    """
    n_heads = len(divergence_NN)
    centre = np.eye(n_heads) - 1 / n_heads
    values, vectors = np.linalg.eigh(-0.5 * centre @ divergence_NN @ centre)
    first = np.argsort(values)[::-1][:2]
    vectors = vectors[:, first] * np.sqrt(np.maximum(values[first], 0))
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    placed = np.zeros((n_heads, 2))
    placed[:, : vectors.shape[1]] = vectors * np.where(signs == 0, 1, signs)
    return placed
