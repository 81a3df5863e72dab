"""What a run is asked for, and what can be wrong with it before any text is read."""
