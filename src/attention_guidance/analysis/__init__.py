"""Looking into attention: which pattern each head follows, how alike heads are, what they know of language.

The patterns are the objects that train heads, and whatever can be guided can be looked at.
"""

from attention_guidance.analysis.census import Census, Estimate, take_census
from attention_guidance.analysis.maps import attention_maps
from attention_guidance.analysis.observe import attention_map, observing
from attention_guidance.analysis.similarity import head_divergence, head_positions

__all__ = [
    "Census",
    "Estimate",
    "attention_map",
    "attention_maps",
    "head_divergence",
    "head_positions",
    "observing",
    "take_census",
]
