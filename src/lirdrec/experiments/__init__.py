"""Experiments: tuning, many runs that resume, the sealed test, statistics and reports (docs/architecture.md)."""
