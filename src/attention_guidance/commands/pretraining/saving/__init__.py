"""What a run leaves on disk: folder, checkpoints, finished model."""
