"""The HTTP layer of the server: limits of the protocol, middleware, error responses, the OpenAPI document."""
