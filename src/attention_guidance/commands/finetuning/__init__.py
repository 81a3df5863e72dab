"""Fine-tune an encoder on a labelled task over several seeds, and compare encoders.

`finetune` and `downstream` are the commands. `examples` reads a task and turns it into tokens (long sentences become
windows and are never cut), `fits` trains models on it, and `scoring` evaluates and compares them.
"""
