"""`AttentionCall`: the inputs of one attention call, from adapter to backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attention_guidance.errors import AttachError
from attention_guidance.patterns import Targets


@dataclass(frozen=True)
class AttentionCall:
    """One call of a module's attention: all heads of a layer or, for most backends, the guided ones.

    ``A_i = softmax(scale * q_i . k_j + bias_ij)`` over the keys that the mask shows; dropout applies to what is summed
    into the output and not to A, of which the statistics are.

    Attributes:
        query_BHQD, key_BHKD, value_BHKD: keys and values may be of fewer heads, which queries share, where all heads of
            a layer are there.
        groups: the targets of each pattern and the number of its heads; none before the call is guided.
        scale: factor on the scores, usually ``D ** -0.5``.
        mask: bool [B or 1, 1, Q or 1, K], True where a query may attend to a key; None for everywhere. As a model gives
            it, it may be additive: see `with_bool_mask`.
        bias: added to the scores, [B or 1, H or 1, Q, K], or None.
        dropout: the share of A that is dropped on the way into the output.
        log_mass: whether the logarithm of the mass is wanted instead of the mass.
        heads: which heads the groups are of, where the tensors have all heads of a layer; None for all in order, those
            of one pattern side by side.
        shared: a place where a backend keeps what other layers of the same pass can use, or None.
        attention: what the model runs without guidance, `sdpa` or `eager`.
        training: whether the attention module is in training mode.
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

    @property
    def size(self) -> tuple[int, int]:
        """Sequences and queries."""
        return self.query_BHQD.shape[0], self.query_BHQD.shape[2]

    def slices(self) -> Iterator[tuple[Targets, slice]]:
        """The targets of each pattern and where its heads are."""
        start = 0
        for targets, n_heads in self.groups:
            yield targets, slice(start, start + n_heads)
            start += n_heads

    def with_bool_mask(self, verb: str = "guide") -> AttentionCall:
        """The same with a bool mask; what an additive one adds to the scores it shows goes into the bias.

        Args:
            verb: what cannot be done where the mask does not serve; a text, which torch.compile traces.

        Raises:
            AttachError: the mask differs by head.
        """
        mask, bias = self.mask, self.bias
        if mask is not None and mask.dtype != torch.bool:
            # An additive mask hides a key with minus infinity, the dtype's lowest number, or -10,000 as BERT's own.
            mask, bias = mask > -1e4, mask if bias is None else bias + mask
        if mask is not None and mask.shape[1] != 1:
            raise AttachError(f"cannot {verb} attention whose mask differs by head (mask of shape {tuple(mask.shape)})")
        return self if mask is self.mask else replace(self, mask=mask, bias=bias)

    def with_all_keys(self) -> AttentionCall:
        """The same with keys and values for each head of the queries."""
        n_shared = self.query_BHQD.shape[1] // self.key_BHKD.shape[1]
        if n_shared == 1:
            return self
        key_BHKD, value_BHKD = (t.repeat_interleave(n_shared, 1) for t in (self.key_BHKD, self.value_BHKD))
        return replace(self, key_BHKD=key_BHKD, value_BHKD=value_BHKD)

    def without_gradient(self) -> AttentionCall:
        """The same for statistics alone, which neither gradient nor dropout goes through."""
        query, key, value = (tensor.detach() for tensor in (self.query_BHQD, self.key_BHKD, self.value_BHKD))
        return replace(self, query_BHQD=query, key_BHKD=key, value_BHKD=value, dropout=0.0)

    def in_full_precision(self) -> AttentionCall:
        """The same in float32 or better."""
        return self._in(torch.promote_types(self.query_BHQD.dtype, torch.float32))

    def in_autocast_precision(self) -> AttentionCall:
        """The same in the precision that autocast would have attention in."""
        device = self.query_BHQD.device.type
        if not torch.is_autocast_enabled(device) or self.query_BHQD.dtype == torch.float64:
            return self
        return self._in(torch.get_autocast_dtype(device))

    def _in(self, dtype: torch.dtype) -> AttentionCall:
        query, key, value = (tensor.to(dtype) for tensor in (self.query_BHQD, self.key_BHKD, self.value_BHKD))
        return replace(self, query_BHQD=query, key_BHKD=key, value_BHKD=value)
