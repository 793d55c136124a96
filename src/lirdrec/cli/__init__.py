"""The `lirdrec` command: parsing and tables, no logic."""
