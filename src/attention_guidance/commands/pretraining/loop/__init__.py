"""The training loop: trainer, time limit, progress, signals, memory."""
