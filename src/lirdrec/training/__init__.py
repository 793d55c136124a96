"""Training by gradients: sampling of negatives, the training loop, checkpoints, history."""
