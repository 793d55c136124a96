"""Transforms of feature matrices."""
