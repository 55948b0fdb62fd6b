"""Sealed models in the making: from finished runs to one model file."""
