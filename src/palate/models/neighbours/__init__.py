"""Neighbourhood models: item-based and user-based nearest neighbours, and random walks."""
