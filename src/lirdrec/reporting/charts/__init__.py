"""Charts, one kind in a module."""
