"""The experiments: each a plan of cells and a report of their results, and what several of them share."""
