"""HTTP server of a run: recommendations, live items and events, explanations, web UI."""
