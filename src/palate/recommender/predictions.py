"""Predicted ratings of pairs of ids, with the route that answered each."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch

from palate.data.dataset import Dataset
from palate.evaluation.measure import FALLBACK, answered_by
from palate.models.base import Model
from palate.recommender.id_translation import from_users, pair_frame


def predict_pairs(model: Model, data: Dataset, users: Any, items: Any) -> pl.DataFrame:
    """`user_id`, `item_id`, `prediction` and `route` of pairs; see `Recommender.predict`.

    Args:
        model: A fitted model.
        data: Its training data.
        users, items: Ids, as in `Recommender.predict`.
    """
    pairs = pair_frame(data, users, items)
    item = data.items.index(pairs["item_id"])
    distinct, row = np.unique(data.users.index(pairs["user_id"]), return_inverse=True)
    queries = from_users(data, model.spec, distinct)
    prediction = model.predict(queries, torch.from_numpy(item), torch.from_numpy(row))
    answered = model.answerable(queries).numpy()[row] & (item >= 0)
    route = np.where(answered, answered_by(model, queries)[row], FALLBACK)
    return pairs.with_columns(pl.Series("prediction", prediction.numpy()), pl.Series("route", route, pl.String))
