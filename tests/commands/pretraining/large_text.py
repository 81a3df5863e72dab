"""The command line, for which any text is large; what it lays out takes a second longer, or is never done.

The first argument is `pack`, or `die`: killed in the middle of packing, when another process waits for it.
"""

import os
import signal
import sys
import time
from pathlib import Path

from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining.preparation import text as prepare_text

_pack = prepare_text.pack


def slowly(*args, file=None, **kwargs):
    blocks = _pack(*args, file=file, **kwargs)
    if file is not None:
        with Path(os.environ["PACKED"]).open("a") as note:
            note.write(f"{os.environ.get('ATTENTION_GUIDANCE_CACHE')}\n")
        time.sleep(1.0)
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return blocks


if __name__ == "__main__":
    how = sys.argv[1]
    prepare_text._IN_MEMORY_BYTES = 0
    prepare_text.pack = slowly
    main(sys.argv[2:])
