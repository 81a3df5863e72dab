"""How alike heads are: the Jensen-Shannon divergence of their rows, and a map of the heads in two dimensions.

After Clark et al. 2019 ("What Does BERT Look At?", section 6).

Shape suffixes: B batch, N heads of all layers, R rows of a sample, K keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from attention_guidance.analysis.observe import attention_map, observing
from attention_guidance.errors import ConfigError
from attention_guidance.hosts.call import AttentionCall

Array = npt.NDArray[np.float64]

# Rows of one sequence that are compared: neighbouring rows of a head say much the same.
_ROWS = 16


def head_divergence(model: nn.Module, batches: Iterable[Mapping[str, Any]], *, rows: int = 256, seed: int = 1) -> Array:
    """The mean Jensen-Shannon divergence between the attention of every two heads, over a sample of rows.

    Args:
        model: any model that `guide` takes and that is not guided; it comes back as it was.
        batches: what it is called with; taken until there are rows enough, 16 of each sequence.
        rows: how many rows to compare; the time goes with this number times the square of the number of heads.
        seed: which rows.

    Returns:
        [N, N] in nats, heads by layer, then number; 0 on the diagonal, at most ln 2.

    Raises:
        AttachError: the model is guided or cannot be looked at.
        ConfigError: no batch.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[tuple[int, Tensor]] = []
    seen: dict[int, list[Tensor]] = {}

    def see(layer: int, call: AttentionCall) -> None:
        map_BHQK = attention_map(call)
        seen[layer] = [map_BHQK[sequence][:, at_R].cpu() for sequence, at_R in chosen]

    total: Tensor | None = None
    done = 0
    with observing(model, see) as watched:
        for batch in batches:
            chosen[:] = _rows_of(batch, rows - done, generator)
            watched(batch)
            for part in range(len(chosen)):
                map_NRK = torch.cat([seen[layer][part] for layer in sorted(seen)])
                divergence_NN = _summed_divergence(map_NRK)
                total = divergence_NN if total is None else total + divergence_NN
                done += map_NRK.shape[1]
            if done >= rows:
                break
    if total is None:
        raise ConfigError("no batch to compare heads on; give at least one")
    return np.asarray((total / done).numpy(), np.float64)


def _rows_of(batch: Mapping[str, Any], wanted: int, generator: torch.Generator) -> list[tuple[int, Tensor]]:
    """Sequences of a batch and queries in them that are tokens."""
    first = next(value for value in batch.values() if isinstance(value, Tensor) and value.dim() >= 2)
    mask_BT = batch.get("attention_mask")
    valid_BT = torch.ones(first.shape[:2], dtype=torch.bool) if mask_BT is None else mask_BT.bool().cpu()
    result = []
    for sequence, valid_T in enumerate(valid_BT):
        places = valid_T.nonzero()[:, 0]
        n_rows = min(_ROWS, wanted, len(places))
        if n_rows > 0:
            result.append((sequence, places[torch.randperm(len(places), generator=generator)[:n_rows]]))
            wanted -= n_rows
    return result


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
