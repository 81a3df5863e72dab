"""The command line: argument parsers of all commands.

`pretraining`, `finetuning`, `recipe`, `tokenizer` and `looking` (census, probe, skill, report) hold the commands.
`flags` makes flags from declared settings, and `arguments` has what all share. Heavy imports wait until a command runs.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from attention_guidance import __version__
from attention_guidance.commands.cli import finetuning, looking, pretraining, recipe, tokenizer
from attention_guidance.commands.cli.arguments import Parser, fail
from attention_guidance.commands.cli.flags import flags_of, with_flags
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.errors import FailedRunError, GuidanceError

_DESCRIPTION = "Attention-guided self-supervised training of bidirectional Transformers (arXiv:2010.02399)."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 a run that failed, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    run = arguments.pop("run")
    given = {name for name, value in arguments.items() if value is not None}
    flags = {name: flags_of(RunConfig).get(name, f"--{name.replace('_', '-')}") for name in arguments}
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        _silence_libraries()
        from attention_guidance.commands.output_lock import until_done

        with until_done():
            sys.exit(run(arguments))
    except GuidanceError as error:
        sys.exit(fail(with_flags(str(error), flags, given), 2))
    except ImportError:
        if not (missing := _missing_packages()):
            raise
        message = f"{command} needs {', '.join(missing)}, not installed here: pip install 'attention-guidance[cli]'"
        sys.exit(fail(message, 2))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has gone; do not complain about it at exit either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        sys.exit(fail(error, 1))
    except FailedRunError as error:
        sys.exit(fail(with_flags(str(error), flags, given), 1))
    except RuntimeError as error:
        # torch.OutOfMemoryError, without waiting for torch where nothing needed it.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        sys.exit(fail("the memory of the GPU does not suffice; try a smaller --batch-size or a smaller model", 1))
    except KeyboardInterrupt:
        _leave(fail("interrupted", 130))


def _missing_packages() -> list[str]:
    """Packages of the extra `cli` that are not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    missing = []
    try:
        wanted = [line for line in distribution("attention-guidance").requires or () if line.endswith('extra == "cli"')]
    except PackageNotFoundError:  # run from its source
        return []
    for line in wanted:
        name = re.split(r"[^\w.-]", line)[0]
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def _leave(code: int) -> NoReturn:
    """Exit after Ctrl-C, at once also where a tokenizer is still being trained: nothing can stop that."""
    from attention_guidance.commands.tokenization.training import is_training

    if is_training():
        # Python's own way out shares the processors with that training for many seconds.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _silence_libraries() -> None:
    """Keep other libraries' advice off the screen; their errors still come through."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _parser() -> Parser:
    parser = Parser(prog="attention-guidance", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pretraining.add_commands(commands)
    finetuning.add_commands(commands)
    recipe.add_commands(commands)
    tokenizer.add_commands(commands)
    looking.add_commands(commands)
    return parser
