"""Target keys of every query, with memory linear in the sequence length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attention_guidance.errors import PatternError

# In a class code, the low bits are the classes and the high bits the document index.
MAX_CLASSES = 16
CLASS_BITS = (1 << MAX_CLASSES) - 1
# How far the sum of a row of probabilities may be from 1.
_ROUNDING = 1e-3


def sums_dtype(device: torch.device) -> torch.dtype:
    """The precision to add up many numbers in: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True)
class Targets:
    """The target keys of every query, each listed once: single keys, classes of keys, or a dense map; or soft targets.

    A query's targets are the keys in its row of `picks_BQP`, and the keys that share both a class and the document with
    it: a class code has one bit per class and, above these, the document index if several documents are packed into one
    sequence. A pattern that fits neither form uses `map_BQK`, whose memory is quadratic in the length.

    Examples:
        >>> Targets(torch.tensor([[[1], [2], [-1]]])).dense().int().tolist()
        [[[0, 1, 0], [0, 0, 1], [0, 0, 0]]]

    Attributes:
        picks_BQP: long, positions of single keys; -1 for none.
        key_classes_BK: long, the class code of each key.
        query_classes_BQ: long, the code of the classes that each query attends to.
        map_BQK: bool, all targets as a dense map; the other fields are then None.
        soft_BQK: floating-point, the probability that each query should give to each key: rows sum to 1, or are zeros
            for a query without a target. The other fields are then None.
        n_classes: number of class bits in use.
        packed: whether the codes contain document indices.
    """

    picks_BQP: Tensor | None = None
    key_classes_BK: Tensor | None = None
    query_classes_BQ: Tensor | None = None
    map_BQK: Tensor | None = None
    soft_BQK: Tensor | None = None
    n_classes: int = 0
    packed: bool = False

    @classmethod
    def of_class(cls, members_BK: Tensor, documents_BT: Tensor | None = None, n_queries: int | None = None) -> Targets:
        """Every query attends to all members, bool [B, K], in its document; None is as many queries as keys."""
        n_queries = members_BK.shape[1] if n_queries is None else n_queries
        key_BK, query_BQ = members_BK.long(), members_BK.new_ones(members_BK.shape[0], n_queries, dtype=torch.long)
        if documents_BT is not None:
            code_BT = documents_BT << MAX_CLASSES
            key_BK, query_BQ = key_BK | code_BT, query_BQ | code_BT
        return cls(None, key_BK, query_BQ, n_classes=1, packed=documents_BT is not None)

    @property
    def is_listed(self) -> bool:
        """Whether they are single keys and classes of keys, with memory linear in the length."""
        return self.map_BQK is None and self.soft_BQK is None

    @classmethod
    def of_rows(cls, rows_BQK: Tensor, name: str) -> Targets:
        """Soft targets; their values are checked, except under torch.compile, which cannot read them.

        Args:
            rows_BQK: floating-point, for each query the probabilities of the keys, or zeros for no target.
            name: where they come from, for the error message.

        Raises:
            PatternError: a row has a number that is no probability, or does not sum to 1 or 0.
        """
        rows_BQK = rows_BQK.detach()
        if torch.compiler.is_compiling():
            return cls(soft_BQK=rows_BQK)
        sums_BQ = rows_BQK.sum(-1, dtype=torch.promote_types(rows_BQK.dtype, torch.float32))
        # Rows in half precision are rounded.
        rounding = _ROUNDING if torch.finfo(rows_BQK.dtype).eps < 1e-4 else 10 * _ROUNDING
        right_BQ = ((sums_BQ - 1).abs() <= rounding) | (sums_BQ == 0)
        right_BQ &= (rows_BQK >= 0).all(-1)
        if not right_BQ.all():
            b, i = (~right_BQ).nonzero()[0].tolist()
            least = rows_BQK[b, i].min().item()
            found = f"sums to {sums_BQ[b, i].item():.4g}" if least >= 0 else f"has the number {least:.4g}"
            raise PatternError(
                f"{name}: the soft target of query {i} in sequence {b} {found}; each row must be probabilities that "
                "sum to 1, or zeros for a query without a target"
            )
        return cls(soft_BQK=rows_BQK)

    def as_soft(self, n_keys: int) -> Targets:
        """The same targets as soft ones, uniform over the keys of a query. `n_keys` is their number."""
        if self.soft_BQK is not None:
            return self
        dense_BQK = self.dense(n_keys).float()
        return Targets(soft_BQK=dense_BQK / dense_BQK.sum(-1, keepdim=True).clamp(min=1))

    def where(self, rows_BQ: Tensor) -> Targets:
        """The same targets for the queries that are True in `rows_BQ`, none for the others."""
        if self.map_BQK is not None:
            return Targets(map_BQK=self.map_BQK & rows_BQ[..., None])
        if self.soft_BQK is not None:
            return Targets(soft_BQK=self.soft_BQK.masked_fill(~rows_BQ[..., None], 0.0))
        picks_BQP, classes_BQ = self.picks_BQP, self.query_classes_BQ
        return replace(
            self,
            picks_BQP=None if picks_BQP is None else torch.where(rows_BQ[..., None], picks_BQP, -1),
            query_classes_BQ=None if classes_BQ is None else torch.where(rows_BQ, classes_BQ, classes_BQ & ~CLASS_BITS),
        )

    def __or__(self, other: Targets) -> Targets:
        """The union; a key that is a target in both is one target.

        Raises:
            PatternError: one of them is soft.
        """
        check_hard(self, other)
        n_classes = self.n_classes + other.n_classes
        # Codes with and without document indices cannot be combined.
        unlike = self.n_classes > 0 and other.n_classes > 0 and self.packed != other.packed
        if self.map_BQK is not None or other.map_BQK is not None or n_classes > MAX_CLASSES or unlike:
            return Targets(map_BQK=self.dense() | other.dense())
        picks = [targets.picks_BQP for targets in (self, other) if targets.picks_BQP is not None]
        n_batch = max((picks_BQP.shape[0] for picks_BQP in picks), default=1)
        return Targets(
            torch.cat([picks_BQP.expand(n_batch, -1, -1) for picks_BQP in picks], -1) if picks else None,
            _joined(self.key_classes_BK, other.key_classes_BK, self.n_classes),
            _joined(self.query_classes_BQ, other.query_classes_BQ, self.n_classes),
            n_classes=n_classes,
            packed=self.packed or other.packed,
        ).listed_once()

    def listed_once(self) -> Targets:
        """The same targets without single keys that repeat an earlier column or are in a class of the query."""
        if self.picks_BQP is None:
            return self
        columns: list[Tensor] = []
        for pick_BQ in self.picks_BQP.unbind(-1):
            again_BQ = torch.zeros_like(pick_BQ, dtype=torch.bool)
            for earlier_BQ in columns:
                again_BQ = again_BQ | (pick_BQ == earlier_BQ)
            if self.key_classes_BK is not None:
                again_BQ = again_BQ | self.shares_class(pick_BQ.clamp(min=0)[..., None])[..., 0]
            columns.append(torch.where(again_BQ, -1, pick_BQ))
        n_batch = max(column.shape[0] for column in columns)
        return replace(self, picks_BQP=torch.stack([column.expand(n_batch, -1) for column in columns], -1))

    def checked(self, name: str, n_batch: int, n_queries: int, n_keys: int) -> Targets:
        """Validate the fields; the result has each key once and none outside the sequence.

        Args:
            name: name of the pattern, for error messages.
            n_batch: B; the batch dimension of a field may also be 1.
            n_queries: Q.
            n_keys: K, which is Q but in cross-attention.

        Raises:
            PatternError: a field has the wrong dtype or shape, or all fields are None.
        """
        fields = {
            "picks_BQP": (self.picks_BQP, 3, (n_queries,)),
            "key_classes_BK": (self.key_classes_BK, 2, (n_keys,)),
            "query_classes_BQ": (self.query_classes_BQ, 2, (n_queries,)),
            "map_BQK": (self.map_BQK, 3, (n_queries, n_keys)),
            "soft_BQK": (self.soft_BQK, 3, (n_queries, n_keys)),
        }
        if all(field is None for field, _, _ in fields.values()):
            raise PatternError(f"pattern {name!r} returned Targets with no field set; set picks_BQP, for example")
        for field_name, (field, n_dims, lengths) in fields.items():
            if field is None:
                continue
            wanted = torch.bool if field_name == "map_BQK" else torch.long
            if field_name == "soft_BQK":
                wanted = field.dtype if field.is_floating_point() else torch.float32
            fits = field.dtype == wanted and field.dim() == n_dims and field.shape[0] in (1, n_batch)
            if not fits or field.shape[1 : 1 + len(lengths)] != lengths:
                raise PatternError(
                    f"pattern {name!r} returned {field_name} of {field.dtype} {tuple(field.shape)}; expected {wanted}, "
                    f"[{n_batch} or 1, {', '.join(map(str, lengths))}{', P' if field_name == 'picks_BQP' else ''}]"
                )
        if self.soft_BQK is not None:
            return Targets.of_rows(self.soft_BQK, name)
        if self.picks_BQP is None:
            return self
        if not self.picks_BQP.shape[-1]:
            return replace(self, picks_BQP=self.picks_BQP.new_full((*self.picks_BQP.shape[:2], 1), -1))
        inside = (self.picks_BQP >= 0) & (self.picks_BQP < n_keys)
        return replace(self, picks_BQP=torch.where(inside, self.picks_BQP, -1)).listed_once()

    def shares_class(self, keys_BQP: Tensor) -> Tensor:
        """Whether listed keys, long [B, Q, P], share a class with their query: bool [B, Q, P]."""
        assert self.key_classes_BK is not None
        assert self.query_classes_BQ is not None
        n_batch = max(self.key_classes_BK.shape[0], keys_BQP.shape[0])
        keys_BQP = keys_BQP.expand(n_batch, -1, -1)
        codes_BQP = self.key_classes_BK[:, None].expand(n_batch, keys_BQP.shape[1], -1).gather(-1, keys_BQP)
        return share_class(codes_BQP, self.query_classes_BQ[..., None])

    def class_columns(self) -> Tensor | None:
        """The keys that are in any class, long [B, C], padded with keys in no class; None if there are no classes."""
        if self.key_classes_BK is None:
            return None
        member_BK = (self.key_classes_BK & CLASS_BITS) != 0
        n_columns = int(member_BK.sum(-1).max())
        return member_BK.byte().argsort(dim=-1, descending=True, stable=True)[:, :n_columns]

    def rows(self, batch: slice, queries: slice) -> Targets:
        """The targets of a range of queries in a range of sequences."""

        def part(tensor: Tensor | None, dim: int, place: slice) -> Tensor | None:
            if tensor is None or tensor.shape[dim] == 1:
                return tensor
            return tensor[place] if dim == 0 else tensor[:, place]

        return replace(
            self,
            picks_BQP=part(part(self.picks_BQP, 0, batch), 1, queries),
            key_classes_BK=part(self.key_classes_BK, 0, batch),
            query_classes_BQ=part(part(self.query_classes_BQ, 0, batch), 1, queries),
            map_BQK=part(part(self.map_BQK, 0, batch), 1, queries),
            soft_BQK=part(part(self.soft_BQK, 0, batch), 1, queries),
        )

    def dense(self, n_keys: int | None = None) -> Tensor:
        """All targets as a dense map: bool [B, Q, K].

        Args:
            n_keys: K, needed if the targets are single keys only and K differs from Q.

        Raises:
            PatternError: they are soft.
        """
        check_hard(self)
        if self.map_BQK is not None:
            return self.map_BQK
        maps_BQK: list[Tensor] = []
        if self.key_classes_BK is not None and self.query_classes_BQ is not None:
            maps_BQK.append(share_class(self.key_classes_BK[:, None], self.query_classes_BQ[..., None]))
        if self.picks_BQP is not None:
            keys_K = torch.arange(n_keys or self.picks_BQP.shape[1], device=self.picks_BQP.device)
            maps_BQK += [pick_BQ[..., None] == keys_K for pick_BQ in self.picks_BQP.unbind(-1)]
        result = maps_BQK[0]
        for map_BQK in maps_BQK[1:]:
            result = result | map_BQK
        return result


def among_visible(soft: Tensor, shown: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Rows of probabilities [..., K] among the keys that a query sees, scaled to sum to 1; zeros if it sees none.

    Args:
        soft: the rows; rows of zeros stay zeros.
        shown: bool, of a shape that broadcasts, True where a query may attend to a key, or None for everywhere.
        dtype: dtype of the result.
    """
    soft = soft.to(dtype)
    if shown is not None:
        soft = soft * shown
    total = soft.sum(-1, keepdim=True)
    return torch.where(total > 0, soft / total, 0.0)


def effective_number(soft: Tensor) -> Tensor:
    """``1 / sum_j P_ij^2`` of rows of probabilities [..., K]: the number of keys where P is uniform; 0 for zeros."""
    squares = soft.square().sum(-1)
    return torch.where(squares > 0, 1 / squares, 0.0)


def check_hard(*several: Targets) -> None:
    """Raise PatternError if any of the targets are soft."""
    if any(targets.soft_BQK is not None for targets in several):
        raise PatternError(
            "soft targets (rows of probabilities) are no sets of keys: they guide heads, but cannot be joined with "
            "other patterns, drawn, counted in a census or put in place of a head"
        )


def share_class(key_codes: Tensor, query_codes: Tensor) -> Tensor:
    """Whether codes (broadcast together) have a class in common and the same document."""
    return ((key_codes & query_codes & CLASS_BITS) != 0) & ((key_codes ^ query_codes) >> MAX_CLASSES == 0)


def _joined(first: Tensor | None, second: Tensor | None, n_first: int) -> Tensor | None:
    """Combine the classes of two sets of codes, which have the same document indices."""
    if first is None or second is None:
        return second if first is None else first
    return first | (second & ~CLASS_BITS) | ((second & CLASS_BITS) << n_first)
