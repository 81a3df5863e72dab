"""Training one model on one task, over learning rates and seeds."""
