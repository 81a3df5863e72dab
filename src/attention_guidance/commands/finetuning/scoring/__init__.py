"""Metrics, predictions on disk, results, and the paired bootstrap."""
