"""The HTTP layer: protocol limits, middleware, errors, OpenAPI."""
