"""Ranking of requests in micro-batches."""
