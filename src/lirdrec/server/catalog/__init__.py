"""Information on items: images, search, facets, projection, audience, explanations, encoding."""
