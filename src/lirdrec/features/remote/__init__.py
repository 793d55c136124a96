"""Clients of remote models: requests, rate limits and costs."""
