"""Baselines: popularity, biases, and the fold-in that hybrid models use for new users."""
