"""Models whose heads are built by hand: the scores of each layer and head are given, so every figure is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

SIZE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def uniform(**sizes: int) -> BertModel:
    """A BERT all of whose heads spread their attention evenly."""
    model = BertModel(BertConfig(**(SIZE | sizes)), add_pooling_layer=False).eval()
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    return model


class Planted(nn.Module):
    """Makes one head of a model look where it is told, whatever the input: [T, T] scores are put on its map.

    A context manager; the model is left as it was.
    """

    def __init__(self, model: BertModel, layer: int, head: int, scores: Tensor) -> None:
        super().__init__()
        self.attention = model.encoder.layer[layer].attention.self
        self.n_heads, self.head, self.scores = model.config.num_attention_heads, head, scores

    def __enter__(self) -> Planted:
        """Have query and key give these scores: the query picks its position, the key holds the column."""
        width = self.attention.query.out_features // self.n_heads
        length = len(self.scores)
        if length > width:
            raise ValueError(f"a head of {width} channels holds scores of at most that many positions")
        at = slice(self.head * width, (self.head + 1) * width)

        def queries(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            out = out.clone()
            out[..., at] = 0
            used = min(length, out.shape[1])
            out[:, :used, at] = torch.eye(length, width)[:used] * width**0.5
            return out

        def keys(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            out = out.clone()
            out[..., at] = 0
            used = min(length, out.shape[1])
            out[:, :used, at.start : at.start + length] = self.scores.T[:used]
            return out

        self.hooks = [
            self.attention.query.register_forward_hook(queries),
            self.attention.key.register_forward_hook(keys),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        """Take the head back."""
        for hook in self.hooks:
            hook.remove()
