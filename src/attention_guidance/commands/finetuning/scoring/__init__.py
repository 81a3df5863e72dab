"""Metrics, predictions on disk, the baseline, and the paired bootstrap."""
