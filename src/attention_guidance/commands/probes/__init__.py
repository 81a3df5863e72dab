"""Probes: does a head, untrained for it, look from a word to the word that a linguist would point at?

`questions` says what is asked of a text, `tasks` asks it of annotated data, `answers` lets every head of a model answer
by where it looks, and `scores` says how good the answers are.
"""
