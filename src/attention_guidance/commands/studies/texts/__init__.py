"""Commands that need no model: sentences for a probe, tokenizers."""
