"""Vectors of users and items as frames with ids, and as Parquet files for vector databases.

For models that rank by a dot product (`item_factors`), the dot product of a user's and an item's vector orders the
items as `recommend` does. Other models have at most item vectors whose cosine is the similarity of two items.

Legend: B users of a block, N items, D width.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from palate.data.ids import IdMap
from palate.device import on_cpu
from palate.errors import ArtifactError, CannotAnswer
from palate.ranking.index import query_factors
from palate.recommender.artifact import Artifact
from palate.recommender.id_translation import from_users

USERS_PER_BLOCK = 4096
"""Users whose vectors are computed at once."""
Metric = Literal["dot", "cosine"]


def item_vectors(rec: Artifact) -> pl.DataFrame:
    """The vector of every item.

    Args:
        rec: A recommender.

    Returns:
        Columns `item_id` and `vector` (an array of float32). For models that rank by dot products, these go with
        `user_vectors`; for others, the cosine of two of them is the similarity of two items.

    Raises:
        CannotAnswer: The model has no item vectors.
    """
    vectors, _ = _items(rec)
    return _frame("item_id", rec.data.items, np.arange(len(vectors)), vectors)


def user_vectors(rec: Artifact) -> pl.DataFrame:
    """The vector of every user that the model answers, from all that is known of the user.

    Dot products with `item_vectors` order the items as `recommend` does; they need not equal the scores.

    Args:
        rec: A recommender.

    Returns:
        Columns `user_id` and `vector` (an array of float32).

    Raises:
        CannotAnswer: The model does not rank by dot products.
    """
    if rec.model.item_factors() is None:
        raise CannotAnswer(
            f"{rec.name} does not rank by dot products, so there are no user vectors that go with item vectors; "
            "models that do are for example mf, ials, lightgcn and two-tower"
        )
    index, pieces = [np.empty(0, np.int64)], [torch.zeros(0, 0)]
    known = rec.known
    for start in range(0, known.n_users, USERS_PER_BLOCK):
        users = np.arange(start, min(start + USERS_PER_BLOCK, known.n_users))
        queries = from_users(known, rec.model.spec, users, rec.data)
        rows = rec.model.answerable(queries).nonzero().squeeze(1)
        with torch.no_grad():
            pieces.append(query_factors(rec.model, queries.take(rows)))
        index.append(users[rows.numpy()])
    return _frame("user_id", known.users, np.concatenate(index), torch.cat(pieces[1:]))


def export_vectors(rec: Artifact, out: str | Path) -> dict[str, Any]:
    """Write the vectors as Parquet: `items.parquet` and, for models that rank by dot products, `users.parquet`.

    The item table's other columns follow the vector, so that a vector database can filter by them.

    Args:
        rec: A recommender.
        out: The folder; created if it does not exist. Files of the same names are replaced.

    Returns:
        What `vectors.json` in the folder holds: model, metric ("dot": of a user and an item; "cosine": of two items),
        width, counts.

    Raises:
        CannotAnswer: The model has no item vectors.
        ArtifactError: The folder cannot be written.
    """
    out, (_, metric) = Path(out), _items(rec)
    items = item_vectors(rec)
    if rec.data.item_table is not None:
        items = items.join(rec.data.item_table, on="item_id", how="left", maintain_order="left", suffix="_of_item")
    users = user_vectors(rec) if metric == "dot" else None
    width = items.schema["vector"].shape[0] if isinstance(items.schema["vector"], pl.Array) else 0
    about = {
        "model": rec.name, "metric": metric, "width": width, "items": items.height,
        "users": 0 if users is None else users.height, "data": rec.data.fingerprint,
    }  # fmt: skip
    try:
        out.mkdir(parents=True, exist_ok=True)
        if users is None:
            (out / "users.parquet").unlink(missing_ok=True)
        for name, frame in (("items", items), ("users", users)):
            if frame is not None:
                frame.write_parquet(new := out / f".{name}.parquet.new")
                os.replace(new, out / f"{name}.parquet")
        (out / "vectors.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"cannot write vectors into {out}: {error}; name another folder") from error
    return about


def _items(rec: Artifact) -> tuple[Tensor, Metric]:
    """Vectors of all items, `[N, D]`, and what they are compared by."""
    factors = on_cpu(rec.model.item_factors())
    if factors is not None:
        return factors.detach(), "dot"
    vectors = on_cpu(rec.model.item_vectors())
    if vectors is None:
        raise CannotAnswer(
            f"{rec.name} has no item vectors; models that have are for example mf, ials, neumf, multvae and two-tower"
        )
    return vectors.detach(), "cosine"


def _frame(key: str, ids: IdMap, index: np.ndarray, vectors: Tensor) -> pl.DataFrame:
    values = vectors.float().contiguous().numpy()
    column = pl.Series("vector", values, dtype=pl.Array(pl.Float32, values.shape[1]))
    return pl.DataFrame([ids.ids[index].rename(key), column])
