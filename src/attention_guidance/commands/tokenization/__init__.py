"""Tokenizers: train them in several kinds, load any, and measure how well they fit a text."""
