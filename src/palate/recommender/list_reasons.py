"""A sentence for each item of recommended lists."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.queries import Queries
from palate.evaluation.measure import WITHIN, answered_by
from palate.explanation.explain import reasons
from palate.models.base import Model


def list_reasons(model: Model, data: Dataset, queries: Queries, items_BK: Tensor) -> pl.Series:
    """The column `reasons` of recommended lists.

    Args:
        model: A fitted model.
        data: Its training data.
        queries: Whom the lists are for.
        items_BK: Item indices, `[B, K]`, padded with -1; padding gets no sentence.
    """
    texts = reasons(model, data, queries, items_BK)
    for row in np.flatnonzero(answered_by(model, queries) == WITHIN):
        names = model.fallback.names(queries.take(torch.tensor([row])))
        texts[row] = [text and f"Recommended because it is popular with similar users ({names})" for text in texts[row]]
    return pl.Series("reasons", [text for row in texts for text in row if text], dtype=pl.String)
