"""The command line and all that it does beside guidance: text, pre-training, fine-tuning, probes, reports."""
