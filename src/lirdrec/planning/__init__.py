"""Compute what a training will need, before it is started: memory of each device, communication, time."""
