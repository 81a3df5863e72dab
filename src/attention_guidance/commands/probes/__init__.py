"""Probes of attention heads: reflexives, coreference, GAP, dependencies.

`questions` defines questions about the words of a text, `tasks` makes them from annotated data, `answers` derives the
answers of all heads from their attention, and `scores` evaluates them.
"""
