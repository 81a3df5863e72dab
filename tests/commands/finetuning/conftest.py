"""Fixtures: small runs and tasks."""

from finetunings import many_models, table
from small_runs import arguments, cli, corpus, whole_run

__all__ = ["arguments", "cli", "corpus", "many_models", "table", "whole_run"]
