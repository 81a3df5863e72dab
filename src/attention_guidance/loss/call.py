"""`AttentionCall`: the inputs of one attention call, from adapter to backend; `MapCall`: its map alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from attention_guidance.patterns import Targets

_Made = TypeVar("_Made")

HIDDEN = -1e4
"""An additive mask hides a key by this number or a lower one: minus infinity, the dtype's lowest, or BERT's -10,000."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of a module's attention: all heads of a layer or, for most backends, the guided ones.

    ``A_ij = softmax_j(scale * q_i . k_j + bias_ij)`` over the keys that the mask does not hide. Dropout applies to the
    output only: the statistics are those of A.

    Attributes:
        query_BHQD: queries.
        key_BHKD: keys. If the tensors have all heads of a layer, several query heads may share one key and value head
            (grouped queries).
        value_BHKD: values, of as many heads as the keys.
        groups: the targets of each pattern and the number of its heads; empty before the call is guided.
        scale: factor on the scores, usually ``D ** -0.5``.
        mask: bool [B or 1, 1, Q or 1, K], True where a query may attend to a key, or None for no mask. The mask of a
            model may be additive or differ by head: see `with_bool_mask`.
        bias: added to the scores, [B or 1, H or 1, Q, K], or None.
        dropout: probability of dropping an entry of A when computing the output.
        log_mass: whether to compute the logarithm of the mass instead of the mass; for soft targets, the mean of the
            logarithm of A over P.
        heads: the heads that `groups` refers to, if the tensors have all heads of a layer. None: all heads in order,
            with those of one pattern adjacent.
        shared: a dict in which a backend stores what other layers of the same pass can use, or None.
        attention: the model's attention without guidance, `sdpa` or `eager`.
        training: whether the attention module is in training mode.
        cross: whether a decoder attends to an encoder, so that positions of keys are not those of queries.
    """

    query_BHQD: Tensor
    key_BHKD: Tensor
    value_BHKD: Tensor
    groups: tuple[tuple[Targets, int], ...]
    scale: float
    mask: Tensor | None = None
    bias: Tensor | None = None
    dropout: float = 0.0
    log_mass: bool = False
    heads: tuple[int, ...] | None = None
    shared: dict[Any, Any] | None = None
    attention: str = "sdpa"
    training: bool = True
    cross: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """The number of sequences and the number of queries."""
        return self.query_BHQD.shape[0], self.query_BHQD.shape[2]

    @property
    def n_keys(self) -> int:
        """The number of keys."""
        return self.key_BHKD.shape[2]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.query_BHQD.device

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """The tensors through which guidance trains the model."""
        return self.query_BHQD, self.key_BHKD

    def sample(self) -> Tensor:
        """One number of each query, key and value, [B, Q + 2K], by which a recomputation of the call is recognised."""
        # Include values: queries and keys may be initialized to zero, and then be the same for all texts.
        tensors = self.query_BHQD, self.key_BHKD, self.value_BHKD
        return torch.cat([tensor[:, 0, :, 0].detach() for tensor in tensors], -1)

    def slices(self) -> Iterator[tuple[Targets, slice]]:
        """The targets of each pattern, and the slice of its heads."""
        return _slices(self.groups)

    def once(self, settings: Hashable, make: Callable[[], _Made]) -> _Made:
        """What `make` returns; made once for all layers of the pass with the same mask, targets and settings."""
        if self.shared is None:
            return make()
        key = (settings, id(self.mask), *((id(targets), n_heads) for targets, n_heads in self.groups))
        if key not in self.shared:
            # Keep mask and targets alive too: the key has their ids, which are valid only while they exist.
            self.shared[key] = make(), self.mask, self.groups
        made: _Made = self.shared[key][0]
        return made

    def of_heads(self, heads: tuple[int, ...]) -> AttentionCall:
        """The call with some of its heads only."""
        n_shared = self.query_BHQD.shape[1] // self.key_BHKD.shape[1]
        key_heads = [head // n_shared for head in heads]
        bias = self.bias
        return replace(
            self,
            query_BHQD=take_heads(self.query_BHQD, heads),
            key_BHKD=take_heads(self.key_BHKD, key_heads),
            value_BHKD=take_heads(self.value_BHKD, key_heads),
            bias=bias if bias is None or bias.shape[1] == 1 else take_heads(bias, heads),
            heads=None,
        )

    def with_bool_mask(self) -> AttentionCall:
        """The same call with a bool mask for all heads.

        The values of an additive mask at keys that it does not hide become a bias, and so does a mask for each head: a
        key that it hides from some heads only, it hides by a bias of minus infinity.
        """
        mask, bias = self.mask, self.bias
        if mask is None or (mask.dtype == torch.bool and mask.shape[1] == 1):
            return self
        added, shown = mask, mask > HIDDEN
        if mask.dtype == torch.bool:
            added, shown = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -math.inf), mask
        return replace(
            self,
            mask=shown if shown.shape[1] == 1 else shown.any(1, keepdim=True),
            bias=added if bias is None else bias + added,
        )

    def with_all_keys(self) -> AttentionCall:
        """The same call with keys and values repeated for each query head."""
        n_shared = self.query_BHQD.shape[1] // self.key_BHKD.shape[1]
        if n_shared == 1:
            return self
        key_BHKD, value_BHKD = (t.repeat_interleave(n_shared, 1) for t in (self.key_BHKD, self.value_BHKD))
        return replace(self, key_BHKD=key_BHKD, value_BHKD=value_BHKD)

    def without_gradient(self) -> AttentionCall:
        """The same call without gradients and dropout, for the statistics alone."""
        query, key, value = (tensor.detach() for tensor in (self.query_BHQD, self.key_BHKD, self.value_BHKD))
        return replace(self, query_BHQD=query, key_BHKD=key, value_BHKD=value, dropout=0.0)

    def in_full_precision(self) -> AttentionCall:
        """The same call in float32 or better."""
        return self._in(torch.promote_types(self.query_BHQD.dtype, torch.float32))

    def in_autocast_precision(self) -> AttentionCall:
        """The same call in the dtype that autocast uses for attention."""
        device = self.query_BHQD.device.type
        if not torch.is_autocast_enabled(device) or self.query_BHQD.dtype == torch.float64:
            return self
        return self._in(torch.get_autocast_dtype(device))

    def _in(self, dtype: torch.dtype) -> AttentionCall:
        query, key, value = (tensor.to(dtype) for tensor in (self.query_BHQD, self.key_BHKD, self.value_BHKD))
        return replace(self, query_BHQD=query, key_BHKD=key, value_BHKD=value)


@dataclass(frozen=True)
class MapCall:
    """One call of a module that computes its attention itself: the map that it computed.

    Attributes:
        map_BHQK: the map of every head, after the softmax and before dropout.
        inputs: the input of the module, of any shape, by which a recomputation is recognised.
        groups, log_mass, heads, shared, training: see `AttentionCall`.
        mask: bool [B, 1, Q, K], True where any head attends, or None. Softmax gives hidden keys exact zeros.
        attention: that the module computes its attention itself.
        cross: always False.
    """

    map_BHQK: Tensor
    inputs: Tensor
    groups: tuple[tuple[Targets, int], ...] = ()
    mask: Tensor | None = None
    log_mass: bool = False
    heads: tuple[int, ...] | None = None
    shared: dict[Any, Any] | None = None
    training: bool = True
    attention: ClassVar[str] = "own"
    cross: ClassVar[bool] = False

    @property
    def size(self) -> tuple[int, int]:
        """The number of sequences and the number of queries."""
        return self.map_BHQK.shape[0], self.map_BHQK.shape[2]

    @property
    def n_keys(self) -> int:
        """The number of keys."""
        return self.map_BHQK.shape[3]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.map_BHQK.device

    @property
    def trained(self) -> tuple[Tensor, ...]:
        """The tensors through which guidance trains the model."""
        return (self.map_BHQK,)

    def sample(self) -> Tensor:
        """One number of each position of the input, by which a recomputation of the call is recognised."""
        return self.inputs[..., 0].detach()

    def slices(self) -> Iterator[tuple[Targets, slice]]:
        """The targets of each pattern, and the slice of its heads."""
        return _slices(self.groups)

    def of_heads(self, heads: tuple[int, ...]) -> MapCall:
        """The call with some of its heads only."""
        return replace(self, map_BHQK=take_heads(self.map_BHQK, heads), heads=None)

    def with_bool_mask(self) -> MapCall:
        """The same call, whose mask is bool already."""
        return self

    def in_autocast_precision(self) -> MapCall:
        """The same call: a map is in the precision in which the module computed it."""
        return self

    def as_scores(self) -> AttentionCall:
        """An `AttentionCall` with the same map, for looking: its queries and keys are zeros, its bias the map's log."""
        n_batch, n_heads, n_queries, n_keys = self.map_BHQK.shape
        precise = torch.promote_types(self.map_BHQK.dtype, torch.float32)
        query_BHQD, key_BHKD = (
            self.map_BHQK.new_zeros(n_batch, n_heads, length, 1, dtype=precise) for length in (n_queries, n_keys)
        )
        return AttentionCall(
            query_BHQD, key_BHKD, key_BHKD, self.groups, 1.0, self.mask, self.map_BHQK.to(precise).log(),
            training=self.training,
        )  # fmt: skip


Call = AttentionCall | MapCall


def _slices(groups: tuple[tuple[Targets, int], ...]) -> Iterator[tuple[Targets, slice]]:
    start = 0
    for targets, n_heads in groups:
        yield targets, slice(start, start + n_heads)
        start += n_heads


def take_heads(tensor_BHTD: Tensor, heads: Sequence[int]) -> Tensor:
    """Select heads; a view if they are adjacent."""
    first, n_heads = heads[0], len(heads)
    if list(heads) == list(range(first, first + n_heads)):
        return tensor_BHTD[:, first : first + n_heads]
    return tensor_BHTD[:, list(heads)]
