"""Models without pre-training, alone and combined with a fine-tuned encoder."""
