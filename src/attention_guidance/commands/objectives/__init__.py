"""Pre-training objectives: what is hidden from the model and what it must say.

`base` says what an objective is; every other file is one of them, or a part that several use: `masking`, `masked_head`.
"""

OBJECTIVES = ("mlm", "whole-word", "span", "rtd", "mlm+nsp", "mlm+sop", "mim", "speech")
# Those that learn from something else than text, and what they learn from.
OTHER_THAN_TEXT = {"mim": "images", "speech": "recordings"}
# Of rtd, which trains two encoders.
GUIDED_PARTS = ("discriminator", "generator", "both")


def is_own(objective: str) -> bool:
    """Whether the name of an objective names a function in a file: `objective.py:function`."""
    file, _, function = objective.rpartition(":")
    return file.endswith(".py") and function.isidentifier()
