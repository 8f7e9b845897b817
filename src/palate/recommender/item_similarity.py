"""Item similarity: the cosine of the model's item vectors or, for a model without any, co-occurrence:

    co(i, j) / sqrt(n_i n_j)

with n_i the users who have item i and co(i, j) the users who have both.

Legend: N items, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from palate.data.dataset import Dataset
from palate.recommender.id_translation import id_column, is_one

ITEM_VECTORS, CO_OCCURRENCE = "item_vectors", "co_occurrence"
"""The routes of similarities."""


def item_similarity(data: Dataset, vectors: Tensor | None, item: int) -> tuple[np.ndarray, str]:
    """The similarity of every item to one item.

    Args:
        data: The training data.
        vectors: The model's item vectors, `[N, D]`; None for co-occurrence.
        item: Item index.

    Returns:
        Cosines, float `[N]`, and the route.
    """
    if vectors is not None:
        unit_ND = normalize(vectors.detach(), dim=1)
        return (unit_ND @ unit_ND[item]).numpy(), ITEM_VECTORS
    order, offsets = data.by_item
    users = np.unique(data.user[order[offsets[item] : offsets[item + 1]]]).astype(np.int64)
    together = data.histories.take(torch.from_numpy(users))
    pair = torch.unique(together.row_of_value * data.n_items + together.values).numpy()
    both = np.bincount(pair % data.n_items, minlength=data.n_items)
    return both / np.sqrt(np.maximum(data.item_counts * data.item_counts[item], 1)), CO_OCCURRENCE


def similar_to(data: Dataset, vectors: Tensor | None, items: Any, k: int) -> pl.DataFrame:
    """The k items most similar to one item; or to each of a collection, with the item asked about in a column `of`.

    Raises:
        UnknownId: An item is not in the training data.
    """
    ids = id_column(items, data.items, "item=")
    frames = [most_similar(data, vectors, int(index), k) for index in data.items.require(ids, "item")]
    if is_one(items):
        return frames[0]
    schema = {"of": data.items.ids.dtype, "item_id": data.items.ids.dtype}
    named = [
        found.insert_column(0, pl.Series("of", [one] * len(found), schema["of"]))
        for one, found in zip(ids, frames, strict=True)
    ]
    return pl.concat(named) if named else pl.DataFrame(schema=schema)


def most_similar(data: Dataset, vectors: Tensor | None, item: int, k: int) -> pl.DataFrame:
    """The k items most similar to one item: `item_id`, `score`, `rank` from 1, `route`; see `item_similarity`."""
    score, route = item_similarity(data, vectors, item)
    best = np.argsort(-score, kind="stable")
    best = best[(best != item) & ((score[best] > 0) | (route == ITEM_VECTORS))][:k]
    found = {"item_id": data.items.ids[best], "score": score[best], "rank": np.arange(1, len(best) + 1)}
    return pl.DataFrame(found).with_columns(route=pl.lit(route))
