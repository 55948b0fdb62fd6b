"""Masks from annotation files."""
