"""Inspect feature matrices: statistics, neighbors and the report page."""
