"""The fixtures of small runs."""

from small_objectives import images, recordings, run_of, settings
from small_runs import arguments, cli, corpus, whole_run

__all__ = ["arguments", "cli", "corpus", "images", "recordings", "run_of", "settings", "whole_run"]
