"""The vocabulary projection and its loss at the masked positions only.

85 % of the positions of a masked language model carry no label, yet the projection to the vocabulary, the dearest
part of a small model, is made for them too and thrown away. Two hooks leave them out: one hands the model only the
labels that count, the other hands its head only the hidden states at those places. The loss is the same mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from attention_guidance.commands.objectives.masking import IGNORED

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

# Where the families whose loss flattens logits and labels keep their prediction head.
_HEADS = ("lm_head", "cls", "predictions")


class MaskedHead:
    """Makes a masked language model predict where the labels are and nowhere else.

    The model then returns logits [number of labels, vocabulary] whenever it is called with labels. A model whose head
    is not where BERT's and RoBERTa's is stays as it was.

    Args:
        model: a masked language model of transformers.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._labelled_BT: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        head = next((getattr(model, name) for name in _HEADS if hasattr(model, name)), None)
        if head is not None:
            self._hooks = [
                model.register_forward_pre_hook(self._keep_labels, with_kwargs=True, prepend=True),
                head.register_forward_pre_hook(self._keep_states),
            ]

    def remove(self) -> None:
        """Let the model predict everywhere again."""
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
