"""Side tables as tensors."""
