"""While a run trains: the trainer, its clock, what a person sees, signals, memory."""
