"""Segmentation networks in plain torch. Each file is one network; nothing here knows Lightning, Hydra or a logger."""
