"""Serve a run over HTTP: recommendations, items and events that are added while serving, explanations, a web page."""
