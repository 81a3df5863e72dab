"""Train, load and evaluate tokenizers: byte-level BPE, WordPiece, Unigram."""
