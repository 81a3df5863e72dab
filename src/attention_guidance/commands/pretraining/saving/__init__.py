"""What a run leaves on disk: its folder, checkpoints, the finished model."""
