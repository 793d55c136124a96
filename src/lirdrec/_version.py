"""The version of lirdrec."""

__version__ = "0.1.0"
