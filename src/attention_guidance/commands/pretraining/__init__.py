"""Pre-training and comparison of runs on transformers' Trainer."""
