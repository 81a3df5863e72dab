"""How alike heads are: the Jensen-Shannon divergence of their rows, and a map of the heads in two dimensions.

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

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = npt.NDArray[np.float64]

# Rows of one sequence that are compared: neighbouring rows of a head say much the same.
_ROWS = 16


def head_divergence(
    model: nn.Module,
    batches: Iterable[Batch] | Batch,
    *,
    rows: int = 256,
    seed: int = 1,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Array:
    """The mean Jensen-Shannon divergence between the attention of every two heads, over a sample of rows.

    Args:
        model: any model that `guide` takes and that is not guided; it comes back as it was.
        batches: what it is called with, as `take_census` takes it; taken until there are rows enough, 16 of each
            sequence of each call.
        rows: how many rows to compare; the time goes with this number times the square of the number of heads.
        seed: which rows.
        tokenizer: the model's, for texts.

    Returns:
        [N, N] in nats, heads by layer, then number; 0 on the diagonal, at most ln 2.

    Raises:
        AttachError: the model is guided or cannot be looked at, or its layers attend in windows of different sizes.
        ConfigError: no batch, or what is none.
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
        raise ConfigError("no batch to compare heads on; give at least one")
    return np.asarray((total / done).numpy(), np.float64)


class _Sample:
    """The rows of a pass by which heads are compared: the same of every layer.

    Args:
        wanted: how many, of all passes.
        generator: draws them.
    """

    def __init__(self, wanted: int, generator: torch.Generator) -> None:
        self.wanted, self.generator = wanted, generator

    def begin(self, batch: Mapping[str, Any], watched: Observation) -> None:
        """A batch is about to go through the model."""
        self.current = watched.forward_pass(batch)
        # Of each call: its size, and the sequences and queries that are taken of it.
        self.calls: list[tuple[torch.Size, list[tuple[int, Tensor]]]] = []
        self.seen: dict[int, list[list[Tensor]]] = {}

    def see(self, layer: int, call: AttentionCall) -> None:
        """A layer is about to attend."""
        map_BHQK = attention_map(call)
        of_layer = self.seen.setdefault(layer, [])
        number = len(of_layer)
        if layer == next(iter(self.seen)):
            self.calls.append((map_BHQK.shape, self._rows(call)))
        if number >= len(self.calls) or self.calls[number][0] != map_BHQK.shape:
            raise AttachError(
                f"layer {layer} attends in windows of other sizes than the layers before it, so its heads cannot be "
                "compared with theirs row by row"
            )
        of_layer.append([map_BHQK[sequence][:, at_R].cpu() for sequence, at_R in self.calls[number][1]])

    def _rows(self, call: AttentionCall) -> list[tuple[int, Tensor]]:
        """Sequences of a call and queries in them that are tokens."""
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
        """The rows of each sequence, of all heads by layer: [N, R, K]."""
        for number, (_, taken) in enumerate(self.calls):
            for part in range(len(taken)):
                yield torch.cat([self.seen[layer][number][part] for layer in sorted(self.seen)])


def _summed_divergence(map_NRK: Tensor) -> Tensor:
    """Sum over rows of ``H((p + q) / 2) - (H(p) + H(q)) / 2`` for every two heads, float64 [N, N]."""
    n_heads = len(map_NRK)
    entropy_N = torch.special.entr(map_NRK).sum(-1).double().sum(-1)
    result = torch.zeros(n_heads, n_heads, dtype=torch.float64)
    for head in range(n_heads - 1):
        middle = (map_NRK[head] + map_NRK[head + 1 :]) / 2
        of_middle = torch.special.entr(middle).sum(-1).double().sum(-1)
        result[head, head + 1 :] = of_middle - (entropy_N[head] + entropy_N[head + 1 :]) / 2
    return (result + result.T).clamp_(min=0)


def head_positions(divergence_NN: Array) -> Array:
    """Place heads in the plane so that their distances come near to their divergence.

    Classical multidimensional scaling (Torgerson 1952) of the square root of the divergence, which is a metric.

    Args:
        divergence_NN: as `head_divergence` gives it.

    Returns:
        [N, 2], centred; the first axis spreads the heads most. Signs are fixed so that equal input gives equal output.
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
