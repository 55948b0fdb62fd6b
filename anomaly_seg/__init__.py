"""Supervised surface-anomaly segmentation from few labelled images: One-Stage, Seg-Dec and U-Net."""

__version__ = "0.1.0"
