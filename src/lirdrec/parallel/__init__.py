"""Several processes that train one model together, each with a part of the rows (docs/distributed.md)."""
