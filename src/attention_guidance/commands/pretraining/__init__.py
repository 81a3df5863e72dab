"""Pre-training runs on the Trainer of transformers."""
