"""Scorer: what ranking asks of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from palate.data.queries import Queries, Spec


class Scorer(Protocol):
    """Anything that scores items for queries: a `palate.models.base.Model`, or an object of your own."""

    @property
    def spec(self) -> Spec:
        """Counts of users and items."""
        ...

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """Scores, float32 `[B, N]`, or `[B, I]` for the given items; higher is better."""
        ...
