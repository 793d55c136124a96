"""Charts, one module per chart type."""
