"""Guide attention heads of bidirectional Transformers toward simple patterns.

After Deshpande and Narasimhan, "Guiding Attention for Self-Supervised Learning with Transformers" (arXiv:2010.02399).

The name of a tensor ends in its dimensions. A letter means the same in the whole library:

| letter | dimension |
|---|---|
| B | sequences of a batch, or 1 where all are alike |
| L | layers |
| H | heads: all of a layer or its guided ones; of keys and values fewer, where several queries share them |
| G | patterns, each of a group of heads |
| T | positions; Q queries, K keys (Q = K = T in an encoder) |
| P | single keys listed for a query; C all keys listed for it, those of its classes too |
| D | channels of a head; E channels of the model |
| b, q | sequences and queries of a block of scores; X, Y tiles of queries and of keys |
| V | vocabulary; R rows that were chosen; M measures; N heads of all layers |
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attention_guidance.assignment import GuidedHead as GuidedHead
    from attention_guidance.assignment import HeadGuidance as HeadGuidance
    from attention_guidance.attach import get_guidance as get_guidance
    from attention_guidance.attach import guide as guide
    from attention_guidance.errors import GuidanceError as GuidanceError
    from attention_guidance.handle import Guidance as Guidance
    from attention_guidance.matching import HeadMatching as HeadMatching
    from attention_guidance.matching import match_heads as match_heads
    from attention_guidance.patterns import Pattern as Pattern
    from attention_guidance.patterns import Sequences as Sequences
    from attention_guidance.patterns import Targets as Targets
    from attention_guidance.patterns import get_pattern as get_pattern
    from attention_guidance.schedules import RelativeWeight as RelativeWeight
    from attention_guidance.schedules import Schedule as Schedule

__version__ = "0.1.0"
"""The version of the package."""

# Public names and where they live. They are looked up on first use, so that the command line's --help need not wait
# for torch.
_HOMES = {
    "guide": "attach",
    "get_guidance": "attach",
    "Guidance": "handle",
    "GuidedHead": "assignment",
    "HeadGuidance": "assignment",
    "GuidanceError": "errors",
    "HeadMatching": "matching",
    "match_heads": "matching",
    "Pattern": "patterns",
    "Sequences": "patterns",
    "Targets": "patterns",
    "get_pattern": "patterns",
    "RelativeWeight": "schedules",
    "Schedule": "schedules",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
