"""Models: one a file, each built from graphs, features and its frozen config, and nothing else."""
