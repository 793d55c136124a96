"""What the server knows of items: images, search, facets, projection, explanations."""
