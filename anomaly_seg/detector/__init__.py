"""A trained detector at work: sealed models, predictions, a page and an HTTP API. Needs no torch to predict."""
