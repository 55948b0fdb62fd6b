"""A page and an HTTP API around a sealed model."""
