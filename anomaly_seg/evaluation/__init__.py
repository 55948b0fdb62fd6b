"""Evaluation: scores, metrics, thresholds, guarantees and pictures of test images."""
