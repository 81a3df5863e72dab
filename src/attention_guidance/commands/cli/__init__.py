"""The command line: argument parsers of all commands.

The commands are defined in `pretraining`, `finetuning`, `recipe`, `tokenizer`, `looking` (census, probe, skill, look,
report) and `ablation`. `flags` creates flags from declared settings, and `arguments` has the arguments that commands
share. Heavy imports are deferred until a command runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from attention_guidance import __version__
from attention_guidance.commands.cli import ablation, finetuning, looking, pretraining, recipe, tokenizer
from attention_guidance.commands.cli.arguments import Parser, fail
from attention_guidance.commands.cli.flags import flags_of, with_flags
from attention_guidance.commands.cli.importing import importing
from attention_guidance.commands.memory import advice, ran_out
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.commands.pretraining.stopped import Interrupted, Stopped, interruptible
from attention_guidance.commands.setting import translated
from attention_guidance.commands.streams import discard
from attention_guidance.errors import FailedRunError, GuidanceError

# What messages call arguments whose names differ from their flags, or that have no flag.
_OWN_FLAGS = {
    "report": {"text": "--text", "sentences": "--sentence"},
    "look": {"text": "SENTENCE", "pair": "SECOND"},
}
_DESCRIPTION = "Attention-guided self-supervised training of bidirectional Transformers (arXiv:2010.02399)."


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 success, 1 failed run, 2 invalid input, 130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    run = arguments.pop("run")
    given = {name for name, value in arguments.items() if value is not None}
    flags = {name: flags_of(RunConfig).get(name, f"--{name.replace('_', '-')}") for name in arguments}
    flags |= _OWN_FLAGS.get(command, {})
    translate = functools.partial(with_flags, flags=flags, given=given)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        _silence_libraries()
        from attention_guidance.commands.output_lock import until_done

        with interruptible(), _threads_that_cannot_write(), translated(translate), until_done():
            sys.exit(run(arguments))
    except GuidanceError as error:
        if ran_out(error):
            sys.exit(fail(advice(), 1))
        sys.exit(fail(translate(str(error)), 2))
    except Stopped as stopped:
        sys.exit(fail(translate(str(stopped)), 128 + stopped.signal))
    except ImportError:
        if not (missing := _missing_packages()):
            raise
        message = f"{command} needs {', '.join(missing)}: pip install 'attention-guidance[cli]'"
        sys.exit(fail(message, 2))
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader of our output has exited; avoid a second error when Python flushes stdout at exit.
            discard(sys.stdout)
            sys.exit(1)
        sys.exit(fail(error, 1))
    except FailedRunError as error:
        sys.exit(fail(translate(str(error)), 1))
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        sys.exit(fail(advice(), 1))
    except Interrupted as stopped:
        _leave(fail(stopped, 128 + stopped.signal))
    except KeyboardInterrupt:
        _leave(fail("interrupted", 130))


@contextlib.contextmanager
def _threads_that_cannot_write() -> Iterator[None]:
    """Inside, no traceback of a thread that cannot write (TensorBoard's): the main thread gets its error too."""
    before = threading.excepthook

    def report(error: threading.ExceptHookArgs) -> None:
        if not issubclass(error.exc_type, OSError):
            before(error)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def _missing_packages() -> list[str]:
    """Packages of the extra `cli` that are not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    missing = []
    try:
        wanted = [line for line in distribution("attention-guidance").requires or () if line.endswith('extra == "cli"')]
    except PackageNotFoundError:  # runs from its source, not installed
        return []
    for line in wanted:
        name = re.split(r"[^\w.-]", line)[0]
        try:
            distribution(name)
        except PackageNotFoundError:
            missing.append(name)
    return missing


def _leave(code: int) -> NoReturn:
    """Exit after Ctrl-C, at once even if a tokenizer is being trained, which cannot be interrupted."""
    from attention_guidance.commands.tokenization.training import is_training

    if is_training():
        # Python's normal exit would compete with the training thread for many seconds.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _silence_libraries() -> None:
    """Suppress warnings and progress bars of transformers, but not its errors."""
    with importing():
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
    ablation.add_commands(commands)
    return parser
