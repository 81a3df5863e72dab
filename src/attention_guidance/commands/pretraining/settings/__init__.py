"""The settings of a run, and the checks made before any text is read."""
