"""Experiments: tuning, trials that resume, the locked test set, statistics and reports (see docs/architecture.md)."""
