"""Corpora: read text files, split off validation data, pack tokens into blocks."""
