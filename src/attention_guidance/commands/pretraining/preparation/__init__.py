"""From settings to training data: text, images or audio, tokenizer, objective."""
