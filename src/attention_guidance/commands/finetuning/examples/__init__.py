"""The examples of a task: reading, labels, splits, and their tokens."""
