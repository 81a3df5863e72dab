"""Annotated data: coreference, treebanks, reflexives, labelled words."""
