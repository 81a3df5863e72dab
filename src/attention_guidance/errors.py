"""Exceptions and warnings: one line with what was given, where, and what works."""

# Longer messages quote a file or an argument at length; the start says where, the end what works.
_LONGEST, _KEPT = 1500, 600


class GuidanceError(ValueError):
    """Base class of all errors about bad input.

    The command line prints the message alone and exits with code 2.

    Examples:
        >>> try:
        ...     guide(model, "next:9")
        ... except GuidanceError as error:
        ...     print(error)
        9 heads for pattern 'next' in layer 0, but the model has 4 heads per layer and 4 of them are free

    Args:
        message: One line; the middle of a very long one is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= _LONGEST else f"{message[:_KEPT]} ... {message[-_KEPT:]}")


class CorpusError(GuidanceError):
    """Text that cannot be read or is too short; the message names the file and the place in it."""


class PatternError(GuidanceError):
    """A pattern, or an assignment of heads to patterns, that is unknown or does not fit the model."""


class AttachError(GuidanceError):
    """A model that guidance cannot be attached to, or that never called the guided attention."""


class GuidanceWarning(UserWarning):
    """The guidance loss is not part of training; each kind of warning is shown once per model."""


class ConfigError(GuidanceError):
    """A setting that is unknown, has the wrong type, or contradicts another."""


class RunError(GuidanceError):
    """A run folder that cannot be used: it holds another run, or a damaged checkpoint."""


class FailedRunError(RuntimeError):
    """A run with valid input that failed; the command line prints the message and exits with code 1."""


class SaveError(FailedRunError):
    """A file could not be written; files written earlier are still there."""


class DivergedError(FailedRunError):
    """Training that diverged: its loss, gradients or weights are not finite."""


def reason_of(error: Exception) -> str:
    """The first line of another library's error message, or its class name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
