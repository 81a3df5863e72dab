"""Pre-training objectives for text, images and speech.

`base` defines the interface. The other modules are objectives, or parts that several share: `masking`, `masked_head`.
"""

OBJECTIVES = ("mlm", "whole-word", "span", "rtd", "mlm+nsp", "mlm+sop", "mim", "speech")
# Objectives whose data are not text.
OTHER_THAN_TEXT = {"mim": "images", "speech": "recordings"}
# The encoders of rtd that can be guided.
GUIDED_PARTS = ("discriminator", "generator", "both")


def is_own(objective: str) -> bool:
    """Whether the name of an objective names a function in a file: `objective.py:function`."""
    file, _, function = objective.rpartition(":")
    return file.endswith(".py") and function.isidentifier()
