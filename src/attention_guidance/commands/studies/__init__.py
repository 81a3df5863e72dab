"""The commands that look into trained models: load a model, analyse it, write figures and files."""
