"""Encoders: one a file."""
