"""What each head of a masked language model is worth: the loss without it."""
