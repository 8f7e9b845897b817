"""Ranking, metrics, protocols and comparisons."""
