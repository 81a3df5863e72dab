"""The fixtures of small runs."""

from small_runs import arguments, cli, corpus

__all__ = ["arguments", "cli", "corpus"]
