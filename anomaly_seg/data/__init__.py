"""From files to batches: readers, integrity checks, dilation, splits, sampling, augmentation and loaders."""
