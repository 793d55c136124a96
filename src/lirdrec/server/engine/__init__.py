"""Rank the items for requests, several requests at once (in micro-batches)."""
