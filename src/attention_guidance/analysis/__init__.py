"""Attention analysis: head censuses, ablation, head similarity, attention maps, and a look at one sentence.

It uses the same patterns as guidance, and works on every model that can be guided. Maps and looks need only a model
of transformers that returns attention maps.
"""

from attention_guidance.analysis.ablation import Ablation, ablate
from attention_guidance.analysis.census import Census, Estimate, take_census
from attention_guidance.analysis.maps import attention_maps
from attention_guidance.analysis.observe import attention_map, observing
from attention_guidance.analysis.sentence.look import Look, look
from attention_guidance.analysis.similarity import head_divergence, head_positions
from attention_guidance.analysis.without_heads import without_heads

__all__ = [
    "Ablation",
    "Census",
    "Estimate",
    "Look",
    "ablate",
    "attention_map",
    "attention_maps",
    "head_divergence",
    "head_positions",
    "look",
    "observing",
    "take_census",
    "without_heads",
]
