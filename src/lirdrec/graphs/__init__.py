"""Graphs and the sparse products over them."""
