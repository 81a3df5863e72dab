"""Compute the vocabulary projection and its loss at the masked positions only.

85 % of the positions of a masked language model have no label, yet it also projects them to the vocabulary, the most
expensive part of a small model, and discards the result. Two hooks skip them: one passes only the labels that count to
the model, the other only the hidden states at these positions to its head. The loss is the same mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from attention_guidance.commands.objectives.masking import IGNORED

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

# Names of the prediction head, or of its first part, in model families whose loss flattens logits and labels: of
# RoBERTa, BERT, ALBERT, ModernBERT, DistilBERT, ELECTRA and those built like them.
_HEADS = ("lm_head", "cls", "predictions", "head", "vocab_transform", "generator_predictions")


class MaskedHead:
    """Make a masked language model predict at the labelled positions only.

    When called with labels, the model returns logits [number of labels, vocabulary]. Models with a head of
    another name are left unchanged.

    Args:
        model: A masked language model of transformers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._labelled_BT: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        head = next((getattr(model, name) for name in _HEADS if hasattr(model, name)), None)
        # ModernBERT does the same itself if its configuration says so.
        if head is not None and not getattr(model, "sparse_prediction", False):
            self._hooks = [
                model.register_forward_pre_hook(self._keep_labels, with_kwargs=True, prepend=True),
                head.register_forward_pre_hook(self._keep_states),
            ]

    def remove(self) -> None:
        """Remove the hooks, so that the model predicts at all positions again."""
        for hook in self._hooks:
            hook.remove()

    def _keep_labels(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        labels_BT = kwargs.get("labels")
        if labels_BT is None:
            self._labelled_BT = None
            return None
        self._labelled_BT = labels_BT != IGNORED
        return args, kwargs | {"labels": labels_BT[self._labelled_BT]}

    def _keep_states(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._labelled_BT is None:
            return None
        return (args[0][self._labelled_BT], *args[1:])
