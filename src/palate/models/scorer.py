"""Scorer: what ranking asks of a model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

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


def keeps(model: Scorer, scores_BN: Tensor) -> bool:
    """Whether these scores may be the scorer's own memory, such as its weights, which nobody else may change.

    The scores of a `Model` are fresh by contract (`palate.testing` checks it), but for views of what it keeps.
    """
    if not isinstance(model, nn.Module) or scores_BN._is_view() or not scores_BN.is_contiguous():
        return True
    return any(scores_BN is kept for kept in (*model._buffers.values(), *model._parameters.values()))
