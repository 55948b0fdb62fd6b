"""Sealed models at work: load, predict, watch. Never imports torch."""
