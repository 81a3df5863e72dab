"""Metrics, predictions on disk, the baseline without pre-training, and the paired bootstrap."""
