"""Training: negative sampling, the loop, checkpoints, history."""
