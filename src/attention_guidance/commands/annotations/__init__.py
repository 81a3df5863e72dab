"""Annotated data: coreference, treebanks, reflexives, words with labels."""
