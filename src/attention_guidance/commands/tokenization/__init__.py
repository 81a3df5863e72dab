"""Tokenizers: train byte-level BPE, WordPiece and Unigram, load any, measure their fit."""
