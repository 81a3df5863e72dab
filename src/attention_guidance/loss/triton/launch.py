"""Launch the kernels: grid sizes, memory for results, and kernel arguments."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from attention_guidance.loss.triton import backward, forward
from attention_guidance.loss.triton.geometry import Tile, geometry_of, like_projection, padded_channels
from attention_guidance.loss.triton.tiles import Prepared, is_of_keys

_LOG2_E = math.log2(math.e)


class Launch:
    """One call of the operator; see `operator.py` for the arguments."""

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        prepared: Prepared,
        heads: Sequence[int],
        sizes: Sequence[int],
        scale: float,
        dropout: float,
        seed: Tensor | None,
        log_mass: bool,
    ) -> None:
        self.query, self.key, self.value = _rows_of_channels(query), _rows_of_channels(key), _rows_of_channels(value)
        self.prepared = prepared
        self.n_batch, self.n_heads, self.n_queries, self.n_channels = query.shape
        self.n_keys, self.n_guided = key.shape[2], len(heads)
        self.patterns_H, self.places_H = _of_heads(tuple(heads), tuple(sizes), self.n_heads, query.device)
        self.scale, self.dropout, self.seed, self.log_mass = scale, dropout, seed, log_mass
        self.mask_kind, self.mask = "none", None
        if mask is not None:
            of_keys = is_of_keys(mask)
            self.mask_kind = "keys" if of_keys else "pairs"
            self.mask = (mask[:, 0, 0] if of_keys else mask[:, 0]).contiguous().view(torch.uint8)
        self.tiles = geometry_of(self.n_channels, query.dtype)

    def forward(self, with_output: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See `operator._forward`."""
        saved = self.n_heads if with_output else 0
        of_logarithms = self.n_guided if self.log_mass else 0
        out = like_projection(self.query) if with_output else self.query.new_empty(0)
        rows = [self._rows(n) for n in (*[self.n_guided] * 2, saved, saved, of_logarithms, of_logarithms)]
        squares, mass, maximum, inverse, top, inverse_mass = rows
        tile = self.tiles.forward
        n_tiles = -(-self.n_queries // tile.queries)
        with _on(self.query.device):
            forward.attend[(n_tiles * self.n_batch * self.n_heads,)](
                self.query, self.key, self.value, out, maximum, inverse, squares, mass, top, inverse_mass,
                **self._common(self.prepared.forward, tile), VALUES=with_output,
            )
        return out, squares, mass, maximum, inverse, top, inverse_mass

    def backward(
        self, results: Sequence[Tensor], grad_out: Tensor, grad_squares: Tensor, grad_mass: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `operator._backward`."""
        out, squares, mass, maximum, inverse, top, inverse_mass = results
        # Memory layout [B, Q, H, D], like the output.
        grad_out = grad_out.transpose(1, 2).contiguous().transpose(1, 2)
        grad_squares, grad_mass = grad_squares.contiguous(), grad_mass.contiguous()
        delta = self._rows(self.n_heads)
        of_rows = (maximum, inverse, delta, grad_squares, grad_mass, top, inverse_mass)
        grad_query = like_projection(self.query)
        # Heads that share keys and values have separate gradients, summed below.
        grad_key, grad_value = like_projection(self.key, self.n_heads), like_projection(self.value, self.n_heads)
        rows, for_queries, for_keys = self.n_batch * self.n_heads, self.tiles.for_queries, self.tiles.for_keys
        over_queries = (-(-self.n_queries // for_queries.queries) * rows,)
        over_keys = (-(-self.n_keys // for_keys.keys) * rows,)
        with _on(self.query.device):
            backward.deltas[over_queries](
                out, grad_out, delta, squares, mass, inverse_mass, grad_squares, grad_mass,
                self.patterns_H, self.places_H, self.n_heads, self.n_guided, self.n_queries,
                LOG_MASS=self.log_mass, QUERIES=for_queries.queries, N_CHANNELS=self.n_channels,
                CHANNELS=padded_channels(self.n_channels),
            )
            backward.of_queries[over_queries](
                self.query, self.key, self.value, grad_out, grad_query, *of_rows,
                **self._common(self.prepared.for_queries, for_queries),
            )
            backward.of_keys[over_keys](
                self.query, self.key, self.value, grad_out, grad_key, grad_value, *of_rows,
                **self._common(self.prepared.for_keys, for_keys),
            )
        return grad_query, self._of_shared(grad_key), self._of_shared(grad_value)

    def _common(self, lists: Tensor, tile: Tile) -> dict[str, Any]:
        """The arguments common to all tile kernels, by name; strides are in elements, for lists in rows of a list."""
        query, key, value, prepared = self.query, self.key, self.value, self.prepared
        nothing = self.patterns_H

        def step(tensor: Tensor | None) -> int:
            return 0 if tensor is None or tensor.shape[0] == 1 else 1

        return {
            "mask_ptr": nothing if self.mask is None else self.mask,
            "picks_ptr": prepared.picks_BGPQ,
            "query_codes_ptr": prepared.query_codes_BGQ,
            "key_codes_ptr": prepared.key_codes_BGK,
            "lists_ptr": lists,
            "patterns_ptr": self.patterns_H,
            "places_ptr": self.places_H,
            "seed_ptr": nothing if self.seed is None else self.seed,
            **{f"query_stride_{name}": query.stride(dim) for dim, name in enumerate("bht")},
            **{f"key_stride_{name}": key.stride(dim) for dim, name in enumerate("bht")},
            **{f"value_stride_{name}": value.stride(dim) for dim, name in enumerate("bht")},
            "mask_stride_b": 0 if self.mask is None else step(self.mask) * self.mask.stride(0),
            "picks_stride_b": step(prepared.picks_BGPQ) * prepared.picks_BGPQ.shape[1],
            "codes_stride_b": step(prepared.key_codes_BGK) * prepared.key_codes_BGK.shape[1],
            "tiles_stride_b": step(lists) * lists.shape[1] * lists.shape[2],
            "n_heads": self.n_heads,
            "n_shared": self.n_heads // key.shape[1],
            "n_guided": self.n_guided,
            "n_tiles": lists.shape[3] - 2,
            "n_queries": self.n_queries,
            "n_keys": self.n_keys,
            "scale": self.scale * _LOG2_E,
            "dropout": self.dropout,
            "GUIDED": self.n_guided > 0,
            "UNGUIDED": self.n_guided < self.n_heads,
            "LOG_MASS": self.log_mass,
            "DROPOUT": self.seed is not None,
            "MASK": self.mask_kind,
            "N_PICKS": prepared.picks_BGPQ.shape[2],
            "CLASSES": prepared.key_codes_BGK.shape[1] > 0,
            "N_CHANNELS": self.n_channels,
            "CHANNELS": padded_channels(self.n_channels),
            "QUERIES": tile.queries,
            "KEYS": tile.keys,
            "PRECISION": _precision(query.dtype),
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **({"maxnreg": tile.registers} if tile.registers and torch.version.hip is None else {}),
        }

    def _rows(self, n_heads: int) -> Tensor:
        return self.query.new_empty(self.n_batch, n_heads, self.n_queries, dtype=torch.float32)

    def _of_shared(self, gradient_BHTD: Tensor) -> Tensor:
        n_shared = self.n_heads // self.key.shape[1]
        if n_shared == 1:
            return gradient_BHTD
        n_batch, _, length, n_channels = gradient_BHTD.shape
        shape = n_batch, length, self.key.shape[1], n_shared, n_channels
        return gradient_BHTD.transpose(1, 2).reshape(shape).sum(3).transpose(1, 2)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make `device` current: Triton launches on the current GPU, which may not be that of the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _rows_of_channels(tensor_BHTD: Tensor) -> Tensor:
    return tensor_BHTD if tensor_BHTD.stride(3) == 1 else tensor_BHTD.contiguous()


def _precision(dtype: torch.dtype) -> str:
    """Precision of float32 products: "ieee", unless the user allows TF32."""
    rounded = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if rounded else "ieee"


@functools.cache
def _of_heads(
    heads: tuple[int, ...], sizes: tuple[int, ...], n_heads: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each head, the index of its pattern (0 for none) and its index among the guided heads: int32 [H]."""
    patterns, places = [0] * n_heads, [0] * n_heads
    of_heads = [pattern for pattern, size in enumerate(sizes, 1) for _ in range(size)]
    for place, (head, pattern) in enumerate(zip(heads, of_heads, strict=True)):
        patterns[head], places[head] = pattern, place
    as_tensor = functools.partial(torch.tensor, dtype=torch.int32, device=device)
    return as_tensor(patterns), as_tensor(places)
