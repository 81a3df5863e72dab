"""The guidance loss: how far attention is from its pattern."""
