"""Batches, negatives, losses, optimizers and the only training loop."""
