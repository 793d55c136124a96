"""Evaluation: rank all items for each user, and compare the lists with held-out interactions."""
