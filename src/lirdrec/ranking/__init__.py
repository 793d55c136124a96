"""Scorers (what training produces) and the one top-K ranker that serves them all."""
