"""The `lirdrec` command: it parses options and prints tables; other folders do the work."""
