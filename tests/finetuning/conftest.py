"""The fixtures of small runs."""

from small_runs import arguments, cli, corpus, whole_run

__all__ = ["arguments", "cli", "corpus", "whole_run"]
