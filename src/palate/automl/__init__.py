"""auto(): from a table to the recommender to use, within a budget of wall-clock time."""

from palate.automl.search import Auto, auto

__all__ = ["Auto", "auto"]
