"""Models of torch's own nn.MultiheadAttention for tests, and what guidance of them is by definition."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

HEADS = "next:1 previous:1 first:1"
TARGETS = (1, -1, "first")
LENGTH, CHANNELS = 9, 16


def sharpened(model):
    """Random attention is next to uniform; sharper queries and keys make the loss and its gradient count."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.in_proj_weight[: 2 * CHANNELS] *= 4
                nn.init.normal_(module.in_proj_bias, std=0.3)
                nn.init.normal_(module.out_proj.bias)
    return model


def make_attention(**options):
    torch.manual_seed(0)
    return sharpened(nn.MultiheadAttention(CHANNELS, 4, **({"batch_first": True} | options))).train()


def make_encoder(batch_first=True, norm_first=False, dropout=0.0, n_layers=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(CHANNELS, 4, 24, dropout, batch_first=batch_first, norm_first=norm_first)
    nested = batch_first and not norm_first  # torch warns where it is asked for nested tensors and will not use them
    model = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=nested)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return sharpened(model).train()


def inputs_of(batch_first=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, LENGTH, CHANNELS, generator=generator, dtype=dtype)
    return x if batch_first else x.transpose(0, 1)


def padding():
    hidden = torch.zeros(3, LENGTH, dtype=torch.bool)
    hidden[1, 6:] = True
    hidden[2, :3] = True
    return hidden


def window():
    positions = torch.arange(LENGTH)
    return (positions[:, None] - positions).abs() > 3


def additive(hidden, dtype=torch.float64):
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, float("-inf"))


def slope(dtype=torch.float64):
    positions = torch.arange(LENGTH)
    return -0.1 * (positions[:, None] - positions).abs().to(dtype)


MASKS = {
    "none": (None, None),
    "padding": (padding(), None),
    "float padding": (additive(padding()), None),
    "window": (None, window()),
    "float window": (None, additive(window())),
    "both": (padding(), window()),
    "slope": (None, slope()),
    "slope and padding": (additive(padding()), slope()),
}


def keep_maps(model):
    """Have an unguided model keep the weights that its attention gives out, by head, in the list that is returned."""
    maps = []

    def keeping(module):
        def forward(query, key, value, need_weights=True, average_attn_weights=True, **kwargs):
            out, map_BHQK = nn.MultiheadAttention.forward(
                module, query, key, value, need_weights=True, average_attn_weights=False, **kwargs
            )
            maps.append(map_BHQK)
            return out, map_BHQK.mean(1) if average_attn_weights else map_BHQK

        return forward

    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.forward = keeping(module)
    return maps


def expected_guidance(maps, hidden, cut=None, objective="squared_error"):
    """Mean over rows, summed over layers and heads, by the definition."""
    total = 0
    for map_BHQK in maps:
        for head, target in enumerate(TARGETS):
            rows = []
            for b in range(map_BHQK.shape[0]):
                tokens = [i for i in range(LENGTH) if hidden is None or not hidden[b, i]]
                for i in tokens:
                    key = tokens[0] if target == "first" else i + target
                    if key in tokens and not (cut is not None and cut[i, key]):
                        row = map_BHQK[b, head, i]
                        squared = row.square().sum() - 2 * row[key] + 1
                        rows.append(squared if objective == "squared_error" else -row[key].log())
            total = total + torch.stack(rows).mean()
    return total


def hidden_by(key_padding_mask, attn_mask):
    """The padding and the pairs that masks hide, bool."""
    cut = attn_mask if attn_mask is None or attn_mask.dtype == torch.bool else attn_mask == float("-inf")
    if key_padding_mask is None or key_padding_mask.dtype == torch.bool:
        return key_padding_mask, cut
    return key_padding_mask == float("-inf"), cut


def first_of(output):
    return output[0] if isinstance(output, tuple) else output


class Tagger(nn.Module):
    """A model as people write them, with the arguments and the loss that transformers' models have."""

    def __init__(self, n_tags=5, checkpointed=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(32, CHANNELS)
        self.positions = nn.Parameter(torch.randn(LENGTH, CHANNELS))
        self.encoder = make_encoder()
        self.head = nn.Linear(CHANNELS, n_tags)
        self.checkpointed = checkpointed

    def embedded(self, input_ids):
        return self.embed(input_ids) + self.positions

    def forward(self, input_ids, attention_mask=None, labels=None):
        x = self.embedded(input_ids)
        hidden = None if attention_mask is None else ~attention_mask.bool()
        if self.checkpointed:
            x = checkpoint(self.encoder, x, None, hidden, use_reentrant=False)
        else:
            x = self.encoder(x, src_key_padding_mask=hidden)
        logits = self.head(x)
        if labels is None:
            return logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return {"loss": loss, "logits": logits}


def tagged():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 32, (3, LENGTH), generator=generator)
    return {"input_ids": ids, "attention_mask": (~padding()).long(), "labels": ids % 5}
