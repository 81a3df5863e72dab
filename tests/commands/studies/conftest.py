"""The fixtures of small runs, and of what is looked at."""

from looked_at import long_model, many_checkpoints, pairs, refusal, sentences
from small_runs import arguments, cli, corpus, whole_run

__all__ = ["arguments", "cli", "corpus", "long_model", "many_checkpoints", "pairs", "refusal", "sentences", "whole_run"]
