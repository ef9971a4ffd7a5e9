"""Statistics that figures alone need; all others are in `benchmarks.stats`."""
