"""`python -m attention_guidance`: the command line."""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109
    # Python puts the current folder first, where data may lie: a torch.py there would be run as torch.
    del sys.path[0]

from attention_guidance.commands.cli import main

main()
