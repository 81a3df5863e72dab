"""Import large libraries faster, by pausing Python's garbage collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Inside, import modules without garbage collection, which otherwise takes a quarter of the time for transformers.

    What the modules created is never collected later either: there is a million objects, and accelerate, for example,
    collects garbage before training. If nothing new was imported, the collector's objects are left as they are.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if enabled:
            gc.enable()
