"""What all tests share: tiny models, and the way to the real text that is not part of the project."""

from __future__ import annotations

import gc
import os
from pathlib import Path

# One thread is faster than two for models as small as these, and keeps sums in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

# Where there is no GPU, kernels run in Triton's interpreter; it is asked for before they are made.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaForMaskedLM

SHARED = Path(__file__).parents[2] / "shared" / "data"
SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
FAMILIES = {"bert": (BertConfig, BertForMaskedLM), "roberta": (RobertaConfig, RobertaForMaskedLM)}


@pytest.fixture
def shared_data() -> Path:
    """The folder of real text; tests that need it skip where it is missing."""
    if not SHARED.is_dir():
        pytest.skip(f"the real text in {SHARED} is not there")
    return SHARED


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_no_garbage():
    """Trainer collects garbage after each training, and would search all that libraries hold: 15 % of a small run."""
    gc.collect()
    gc.freeze()


def _process_wide() -> dict[str, object]:
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def _nothing_process_wide_changes():
    """What one test leaves switched on, all that follow in its process compute with."""
    before = _process_wide()
    yield
    after = _process_wide()
    if after != before:
        # Once is enough: the tests that follow are not to fail for it.
        torch.set_autocast_enabled("cpu", bool(before["autocast"]))
        torch.set_grad_enabled(bool(before["gradients"]))
    assert after == before


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_model():
    """Build a tiny model with random weights: make_model("bert", seed=0, attn_implementation="sdpa", **sizes)."""

    def make(family: str = "roberta", seed: int = 0, attn_implementation: str = "sdpa", **sizes):
        config_class, model_class = FAMILIES[family]
        torch.manual_seed(seed)
        model = model_class(config_class(**(SIZE | sizes), attn_implementation=attn_implementation))
        with torch.no_grad():
            # Random attention is next to uniform; sharper queries and keys make the loss and its gradient count.
            for name, parameter in model.named_parameters():
                if ".query.weight" in name or ".key.weight" in name:
                    parameter.mul_(8)
        return model.train()

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Five sequences of 12 tokens, the second padded on the right, the third on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 64, (5, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    mask[2, :4] = 0
    ids[mask == 0] = 1
    labels = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.6, -100).masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def examples() -> list[dict[str, torch.Tensor]]:
    """32 sequences of 16 tokens, each with 5 labels."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(32):
        ids = torch.randint(5, 64, (16,), generator=generator)
        hidden = torch.ones(16, dtype=torch.bool)
        hidden[torch.randperm(16, generator=generator)[:5]] = False
        made.append({"input_ids": ids, "labels": ids.masked_fill(hidden, -100)})
    return made
