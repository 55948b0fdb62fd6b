"""Training: settings to objects, one run, its folder, sweeps."""
