"""Commands that analyse models, runs and tokenizers, and write figures."""
