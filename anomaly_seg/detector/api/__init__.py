"""The HTTP API of `anomaly-seg serve`."""
