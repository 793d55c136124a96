"""A run behind HTTP: recommendations, items added live, explanations, a page to look at."""
