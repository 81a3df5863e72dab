"""Whether self-attention is causal, seen from which keys its queries attend to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attention_guidance.adapters.base import AttentionProcessor, Purpose, Result, in_backward
from attention_guidance.loss.call import AttentionCall, Call


def directions(attends_BHQK: Tensor) -> tuple[Tensor, Tensor]:
    """Whether any query attends to an earlier key, and whether any attends to a later one, as bool scalars.

    Attention is causal if the first alone is true. Texts of one token show neither.

    Args:
        attends_BHQK: True where a query attends to a key, for the positions of one sequence.
    """
    attends_QK = attends_BHQK.flatten(0, 1).any(0)
    # Padding after a text of one token sees that token, so the first key shows nothing.
    return attends_QK.tril(-1)[:, 1:].any(), attends_QK.triu(1).any()


def reason_against(name: str, purpose: Purpose) -> str:
    """What is said of a causal attention module."""
    return f"{name} attends causally, and {purpose.name} is for bidirectional encoders"


class MaskCheck:
    """Checks that the masks of a model's attention are not causal, in passes until one has shown it for all layers.

    The values are read once, at the end of such a pass: reading waits for a GPU.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}
        self.done = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_seen": {}}

    def watched(self, processor: AttentionProcessor, name: str) -> AttentionProcessor:
        """The processor of a module, with the masks of its calls checked; `name` is what to call the module."""
        return _Watched(processor, name, self)

    def begin_pass(self) -> None:
        """Forget a pass that raised an error."""
        self._seen = {}

    def see(self, name: str, call: AttentionCall) -> None:
        """See a call, unless the check is done. No mask, or one for padding alone, says nothing about later calls."""
        mask = call.mask
        if self.done or mask is None or mask.shape[-2] != mask.shape[-1]:
            return
        if in_backward() or torch.compiler.is_compiling():
            return
        shown = call.with_bool_mask().mask
        assert shown is not None
        seen = torch.stack(directions(shown))
        self._seen[name] = self._seen[name] | seen if name in self._seen else seen

    def reason_against(self, purpose: Purpose) -> str | None:
        """Why the model is no bidirectional encoder, or None if its masks do not show that."""
        if not self._seen:
            return None
        found = torch.stack([*self._seen.values()]).tolist()
        causal = [name for name, (earlier, later) in zip(self._seen, found, strict=True) if earlier and not later]
        self.done, self._seen = all(later for _, later in found), {}
        return reason_against(causal[0], purpose) if causal else None


class _Watched:
    """Shows the calls of a module to a check before its processor answers them."""

    def __init__(self, processor: AttentionProcessor, name: str, check: MaskCheck) -> None:
        self.processor, self.purpose = processor, processor.purpose
        self.name, self.check = name, check

    def is_idle(self, training: bool) -> bool:
        """See `AttentionProcessor`."""
        return self.processor.is_idle(training)

    def attend(self, call: Call, unguided: Callable[[], Result]) -> Result:
        """See `AttentionProcessor`."""
        if isinstance(call, AttentionCall):
            self.check.see(self.name, call)
        return self.processor.attend(call, unguided)
