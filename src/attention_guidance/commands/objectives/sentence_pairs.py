"""Masked tokens with next sentence (BERT) or sentence order (ALBERT) prediction.

Shape suffixes: B batch, T positions, L positions of a segment.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForPreTraining

from attention_guidance.commands.objectives.base import Example, Mean, Score, from_config
from attention_guidance.commands.objectives.masked_head import MaskedHead
from attention_guidance.commands.objectives.masked_lm import Corruption, MaskedTokens, count_correct
from attention_guidance.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedConfig, PreTrainedModel

    from attention_guidance.commands.text.blocks import Blocks

# Names of the pair label in BERT and ALBERT; in both, 0 means as in the text.
_LABELS = ("next_sentence_label", "sentence_order_label")
_PAIR = "pair_label"


class SentencePairs(MaskedTokens):
    """Predict masked tokens, and whether two segments follow each other as in the text.

    A block is split in two, at the delimiter nearest to its middle, or at the middle if there is none. In half of the
    examples the second segment is replaced by that of another block (`next`; Devlin et al. 2019, section 3.1), or the
    two are swapped (`order`; Lan et al. 2020, section 3.1). The losses of tokens and pairs are added.

    Args:
        corrupt, rate, final_rate: As for `MaskedTokens`.
        question: `next` or `order`.
        frame: Ids of the start, end and padding tokens.
    """

    gives_perplexity = False

    def __init__(
        self,
        corrupt: Corruption,
        rate: float | None = None,
        final_rate: float | None = None,
        *,
        question: str,
        frame: tuple[int, int, int],
    ) -> None:
        super().__init__(corrupt, rate, final_rate)
        self.question = question
        self.arch = {"next": "bert", "order": "albert"}[question]
        self.start_id, self.end_id, self.pad_id = frame
        self._label = _LABELS[0]

    @property
    def settings(self) -> dict[str, Any]:
        """See `Objective`."""
        return {"type_vocab_size": 2}

    def example(self, items: Blocks, index: int, generator: np.random.Generator, progress: float) -> Example:
        """See `Objective`: as for `MaskedTokens`, with `token_type_ids` [T] and the pair label."""
        first_L, second_L = self._split(*items[index])
        changed = generator.random() < 0.5
        if changed and self.question == "order":
            first_L, second_L = second_L, first_L
        elif changed and len(items) > 1:
            other = int(generator.integers(len(items) - 1))
            _, second_L = self._split(*items[other + (other >= index)])
        width = items.width
        second_L = second_L[: width - 3 - len(first_L)]
        length = len(first_L) + len(second_L) + 3
        ids_T = np.full(width, self.pad_id, np.int64)
        ids_T[:length] = [self.start_id, *first_L, self.end_id, *second_L, self.end_id]
        example = self.masked_example(ids_T, length, generator, progress)
        position_T = torch.arange(width)
        example["token_type_ids"] = ((position_T >= len(first_L) + 2) & (position_T < length)).long()
        example[_PAIR] = torch.tensor(int(changed))
        return example

    def _split(
        self, ids_T: NDArray[np.integer[Any]], length: int
    ) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]:
        """Split a block into two consecutive segments, without the delimiters around them."""
        tokens_T = ids_T[1 : length - 1]
        middle = len(tokens_T) // 2
        ends = np.flatnonzero(tokens_T == self.end_id)
        # Not so close to an edge that a segment is almost empty.
        ends = ends[(ends >= len(tokens_T) // 4) & (ends < len(tokens_T) - len(tokens_T) // 4)]
        if len(ends):
            cut = int(ends[np.abs(ends - middle).argmin()])
            return tokens_T[:cut], tokens_T[cut + 1 :]
        # A full block has no room for another delimiter: the last token is dropped.
        return tokens_T[:middle], tokens_T[middle : min(len(tokens_T), len(ids_T) - 3)]

    def collate(self, examples: Sequence[Example]) -> Example:
        """See `Objective`."""
        batch = super().collate(examples)
        batch[self._label] = batch.pop(_PAIR)
        return batch

    def score(self, batch: Example, output: Any) -> Score:
        """See `Objective`; the items are the masked tokens. `pair_accuracy` is the accuracy of the pair label."""
        n_labels, n_right = count_correct(batch, output.prediction_logits)
        pairs_B2 = output.seq_relationship_logits if self._label == _LABELS[0] else output.sop_logits
        label_B = batch[self._label]
        # Models return only the sum of both losses, which are means over different items.
        pair_loss = nn.functional.cross_entropy(pairs_B2.float(), label_B).item()
        losses = [Mean(output.loss.item() - pair_loss, n_labels), Mean(pair_loss, len(label_B))]
        accuracy = (pairs_B2.argmax(-1) == label_B).float().mean().item()
        return Score(losses, n_labels, n_right, {"pair_accuracy": Mean(accuracy, len(label_B))})

    def new_model(self, config: PreTrainedConfig) -> PreTrainedModel:
        """See `Objective`."""
        return self._prepare(from_config(AutoModelForPreTraining, config, "pre-training model", "bert or albert"))

    def trained_model(self, name: str) -> PreTrainedModel:
        """See `Objective`."""
        return self._prepare(AutoModelForPreTraining.from_pretrained(name, trust_remote_code=False))

    def _prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        parameters = inspect.signature(model.forward).parameters
        label = next((name for name in _LABELS if name in parameters), None)
        if label is None:
            raise ConfigError(
                f"{model.config.model_type!r} has no head for pairs of sentences in transformers; use bert or albert"
            )
        self._label = label
        MaskedHead(model)
        return model
