"""Checkpoints for resuming a run: their folders, how they are written, and the counts of the training loop."""
