"""The `lirdrec` command. This folder parses options and prints results; the other folders compute these results."""
