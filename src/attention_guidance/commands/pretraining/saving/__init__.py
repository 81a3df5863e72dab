"""The files of a run: folder, checkpoints, finished model."""
