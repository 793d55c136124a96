"""Encoders, which turn texts, images, sounds and videos into vectors; one module for each."""
