"""Fine-tune an encoder on a labelled task over several seeds, and compare encoders.

`finetune` and `downstream` are the commands, with `predict` in `prediction`. `examples` reads a task and tokenizes it
(long sentences become windows and are never truncated), `fits` trains models on it, `baselines` has models without
pre-training, and `scoring` evaluates and compares models.
"""
