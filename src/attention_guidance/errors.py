"""Errors a user can meet: one line that says what was given, where, and what would work."""


class GuidanceError(ValueError):
    """Base of every error this package raises about what it was given.

    The command line prints the message alone and exits with code 2.
    """


class CorpusError(GuidanceError):
    """Text that cannot be read or does not suffice: the message names the file and the place in it."""


class PatternError(GuidanceError):
    """A pattern, or an assignment of heads to patterns, that does not exist or does not fit the model."""


class AttachError(GuidanceError):
    """A model that guidance cannot be attached to, or that never called the guided attention."""


class GuidanceWarning(UserWarning):
    """Guidance that is lost on its way into training: each kind is said once a model."""


class ConfigError(GuidanceError):
    """A setting of a run that is unknown, of the wrong kind, or contradicts another."""


class RunError(GuidanceError):
    """A run's folder that cannot be used: it holds another run, or a damaged checkpoint."""


class FailedRunError(RuntimeError):
    """A run that was asked for rightly and failed: the command line prints the message and exits with code 1."""


class SaveError(FailedRunError):
    """Something could not be written; what was written before is still there."""


class DivergedError(FailedRunError):
    """Training whose weights are no numbers any more."""


def reason_of(error: Exception) -> str:
    """What another library's error says, as a part of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
