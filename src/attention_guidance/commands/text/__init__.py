"""The way from files to blocks of token ids: corpora, the embedded corpus, tokenizers and packing."""
