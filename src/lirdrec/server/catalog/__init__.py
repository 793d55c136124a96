"""Information about items: images, search, facets, projection, audience, explanations, encoding."""
