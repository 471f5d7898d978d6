"""Checkpoints to a file: the walk over parameters."""
