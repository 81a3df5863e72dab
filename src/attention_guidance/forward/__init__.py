"""What happens in a forward pass of a guided model: its passes, layers, hooks, and the loss they join."""
