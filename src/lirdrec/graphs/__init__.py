"""Graphs of users and items, and the sparse products that propagate vectors over them."""
