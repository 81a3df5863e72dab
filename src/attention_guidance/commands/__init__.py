"""The command line: text, pre-training, fine-tuning, probes and reports."""
