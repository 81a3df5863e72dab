"""Predicting with a fine-tuned model: labels and scores for new texts."""
