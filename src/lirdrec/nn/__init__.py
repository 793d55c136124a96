"""Building blocks of models: losses, functions, initialization, cosine transform, principal components, transformer."""
