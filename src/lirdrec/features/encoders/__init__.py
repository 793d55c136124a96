"""Encoders: texts and images become vectors."""
