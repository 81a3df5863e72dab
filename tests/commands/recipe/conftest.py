"""The fixtures of small runs."""

from small_runs import arguments, cli, corpus, made_up_text, whole_run

__all__ = ["arguments", "cli", "corpus", "made_up_text", "whole_run"]
