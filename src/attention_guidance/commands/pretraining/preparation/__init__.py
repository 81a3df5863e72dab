"""From settings to what a run trains on: text, images or sound, tokenizer, objective."""
