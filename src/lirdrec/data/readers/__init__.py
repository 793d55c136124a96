"""Readers of the file formats that data comes in."""
