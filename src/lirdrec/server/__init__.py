"""Serve a run over HTTP: recommendations and explanations, new items and events of users, a web page."""
