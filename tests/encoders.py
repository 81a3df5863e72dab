"""Tiny encoders of every family that guidance is tested on: name, random model, inputs."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = _SIZE | {"vocab_size": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_LONG = _TEXT | {"max_position_embeddings": 40}
_DISENTANGLED = _TEXT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_position_embeddings": 40}
_IMAGE = _SIZE | {"image_size": 16, "patch_size": 4, "num_channels": 3}
_AUDIO = _SIZE | {
    "conv_dim": (8, 8),
    "conv_stride": (5, 4),
    "conv_kernel": (5, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
_NO_DROPOUT = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "hidden_dropout",
    "embedding_dropout", "mlp_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "activation_dropout", "layerdrop",
    "feat_proj_dropout", "dropout_rate", "classifier_dropout_prob",
)  # fmt: skip

# name of the configuration class without "Config", its sizes, kind of input
TEXT = {
    "Bert": _TEXT,
    "Roberta": _LONG,
    "XLMRoberta": _LONG,
    "Camembert": _LONG,
    "Electra": _TEXT | {"embedding_size": 32},
    "Albert": _TEXT | {"embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "DistilBert": {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "ModernBert": _TEXT | {"cls_token_id": 0, "sep_token_id": 2, "num_hidden_layers": 4, "local_attention": 4},
    "Esm": _LONG | {"mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": False},
    "NomicBert": _TEXT,
    "T5": {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 1},
    "EuroBert": _TEXT | {"num_key_value_heads": 2, "mask_token_id": 4},
    # These compute their attention outside transformers' attention interface, and their maps alone are seen.
    "Deberta": _DISENTANGLED,
    "DebertaV2": _DISENTANGLED | {"share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"},
    "MPNet": _LONG,
    "RoFormer": _TEXT | {"embedding_size": 32},
    "XLNet": {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "pad_token_id": 1},
}
IMAGE = {"ViT": _IMAGE, "DeiT": _IMAGE, "ViTMAE": _IMAGE}
AUDIO = {"Wav2Vec2": _AUDIO, "Hubert": _AUDIO}
GUIDABLE = [*TEXT, *IMAGE, *AUDIO]
# What `auto` takes on a CPU; for all others it is `batched`.
OWN_MAPS = ["Deberta", "DebertaV2", "MPNet", "RoFormer", "XLNet"]
AUTO = dict.fromkeys(["T5", *OWN_MAPS], "reference")
# These apply dropout as a function, which no hook sees.
OUTSIDE = {
    "XLM": {"n_words": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "Longformer": _LONG | {"attention_window": 4},
    "LED": {"vocab_size": 64, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "attention_window": 4},
}


def make(name: str, seed: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """A random model of a family in double precision, without dropout, and inputs with padding where it has any."""
    sizes = (TEXT | IMAGE | AUDIO | OUTSIDE)[name]
    config = getattr(transformers, f"{name}Config")(**sizes)
    for field in _NO_DROPOUT:
        if isinstance(getattr(config, field, None), float):
            setattr(config, field, 0.0)
    torch.manual_seed(seed)
    model = getattr(transformers, {"T5": "T5EncoderModel"}.get(name, f"{name}Model"))(config).double().train()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 2 and any(
                part in key for part in ("query", "key", "q_", "k_", "q_proj", "Wqkv", ".q.", ".k.")
            ):
                parameter.mul_(8)
    if name in IMAGE:
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
        # ViT-MAE hides patches at random; with the noise given, always the same ones.
        return model, inputs | ({"noise": torch.rand(2, 16)} if name == "ViTMAE" else {})
    if name in AUDIO:
        return model, {"input_values": torch.randn(2, 400, dtype=torch.float64)}
    ids, mask = torch.randint(5, 60, (3, 10)), torch.ones(3, 10, dtype=torch.long)
    # No more padding than ModernBERT's window of 2 to each side reaches over: where a padded query sees nothing at all,
    # eager attention and SDPA differ by themselves.
    ids[1, 8:], mask[1, 8:] = 1, 0
    return model, {"input_ids": ids, "attention_mask": mask}
