"""Image and audio data for pre-training."""
