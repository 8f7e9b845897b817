"""The recommender: `Recommender`, and the modules that only it needs."""

from palate.recommender.recommender import Recommender

__all__ = ["Recommender"]
