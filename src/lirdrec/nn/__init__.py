"""Building blocks of models: losses, functions, initialization, the cosine transform."""
