"""The forward pass of a guided model: passes, layers and hooks."""
