"""Datasets and runs to and from a model hub."""
