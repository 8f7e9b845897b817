"""Lists for everybody, into a file: `recommend_all` for all users, `similar_all` for all items.

Legend: B users or items of a block, N items, K list length, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import scipy
import torch
from torch import Tensor
from torch.nn.functional import normalize

from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.device import on_cpu
from palate.errors import ConfigError
from palate.evaluation.measure import answered_by
from palate.ranking.index import Index
from palate.ranking.ranked import INF, best
from palate.ranking.rules import Rules, rank_under
from palate.recommender.artifact import Artifact
from palate.recommender.id_translation import build_queries, id_column, list_frame, list_length, require_users
from palate.recommender.item_similarity import CO_OCCURRENCE, ITEM_VECTORS
from palate.recommender.list_files import check_target, hash_of, write_in_parts

ROWS_PER_PART, MAX_USERS_PER_PART = 2**18, 2**13
"""Rows of a part, and most users (or items) of one: what a kill loses."""
MAX_SCORES = 2**22
"""Similarities in memory at once: 16 MB."""
FORMULA = r"^([=+\-@\t\r])"
"""Beginning of a text that a spreadsheet would run as a formula."""


def recommend_all(
    rec: Artifact, path: str | Path, *, users: Any = None, k: int = 10, exclude_seen: bool = True,
    rules: Rules | None = None, approximate: bool = False, unknown: Literal["error", "popularity"] = "error",
    one_row: bool = False, titles: bool = False, escape_formulas: bool = False, shard: tuple[int, int] = (1, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write the lists of all users to a file: in bounded memory, resumable after a kill, in place only when complete.

    Called again with the same arguments after an interruption, it goes on where it stopped, and the file is identical.

    Args:
        rec: A recommender.
        path: The file; `.parquet`, `.csv` or `.jsonl`. One that exists is replaced at the end.
        users: Ids of the users. Defaults to all known users.
        k, exclude_seen, rules, approximate, unknown: As in `Recommender.recommend`.
        one_row: Whether to write one row for each user, instead of one for each user and item. Parquet and JSON lines
            then hold lists; CSV has the columns `item_1` ... `item_k`, `score_1` ... `score_k`. Users without
            any item to list have a row too.
        titles: Whether to add the items' titles, if there are any.
        escape_formulas: Whether a text of a CSV file that a spreadsheet would run as a formula gets an apostrophe.
        shard: `(i, n)` writes the i-th of n parts of the users, i from 1; the n files together hold all users in order.
        on_progress: Called with the number of users that are done and the number of all.

    Returns:
        The number of users that an interrupted call had already done.

    Raises:
        UnknownId: A user is not known, and `unknown` is "error".
        ConfigError: An argument is out of range, a user is given twice, or another process writes this file.
        ArtifactError: The file cannot be written.
    """
    check_target(path := Path(path))
    asked = _shard(_users(rec, users, unknown), shard)
    k = min(list_length(k), rec.data.n_items)
    index = Index(rec.model) if approximate else None
    titles = titles and rec.data.has_titles

    def make(start: int, stop: int) -> pl.DataFrame:
        column, queries = build_queries(
            rec.data, rec.model.spec, asked[start:stop], None, None, unknown=unknown, known=rec.known
        )
        ranked = rank_under(rules, rec.model, rec.data, queries, k, exclude_seen=exclude_seen, index=index)
        found = list_frame(ranked, column, rec.data.items, answered_by(rec.model, queries))
        return _arranged(found, column, k, rec.data if titles else None, path.suffix, one_row, escape_formulas)

    plan = {
        "model": _model_hash(rec), "data": rec.known.fingerprint, "users": hash_of(asked.to_list()), "k": k,
        "exclude_seen": exclude_seen, "rules": asdict(rules or Rules()), "approximate": approximate,
        "layout": [one_row, titles, escape_formulas],
    }  # fmt: skip
    return write_in_parts(path, plan, len(asked), _part_size(k), make, on_progress)


def similar_all(
    rec: Artifact, path: str | Path, *, k: int = 10, one_row: bool = False, titles: bool = False,
    escape_formulas: bool = False, shard: tuple[int, int] = (1, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write the k items most similar to each item to a file, as `recommend_all` does for users.

    Args:
        rec: A recommender.
        path: The file; `.parquet`, `.csv` or `.jsonl`.
        k: As in `Recommender.similar`. Columns are `of`, and those of `similar`.
        one_row: Whether to write one row for each item, as `one_row` of `recommend_all`.
        titles, escape_formulas, shard, on_progress: As in `recommend_all`, with items in place of users.

    Returns:
        The number of items that an interrupted call had already done.

    Raises:
        ConfigError: An argument is out of range, or another process writes this file.
        ArtifactError: The file cannot be written.
    """
    check_target(path := Path(path))
    data, vectors, k = rec.data, on_cpu(rec.model.item_vectors()), min(list_length(k), max(rec.data.n_items - 1, 1))
    asked = _shard(data.items.ids.rename("of"), shard)
    first = data.items.index(asked[:1])[0] if len(asked) else 0
    score = _cosines(vectors) if vectors is not None else _co_occurrences(data)
    route = ITEM_VECTORS if vectors is not None else CO_OCCURRENCE
    step = max(1, MAX_SCORES // data.n_items)
    titles = titles and data.has_titles

    def make(start: int, stop: int) -> pl.DataFrame:
        pieces = []
        for low in range(start, stop, step):
            place = np.arange(low, min(low + step, stop))
            score_BN = score(torch.from_numpy(place + first))
            score_BN[torch.arange(len(place)), torch.from_numpy(place + first)] = -INF
            items_BK, values_BK, *_ = best(score_BN, k, Ragged.empty(len(place)), False, False)
            row, column = (items_BK >= 0).nonzero(as_tuple=True)
            pieces.append(
                pl.DataFrame([
                    asked[place[row.numpy()]],
                    data.items.ids[items_BK[row, column].numpy()].rename("item_id"),
                    pl.Series("score", values_BK[row, column].numpy()),
                    pl.Series("rank", (column + 1).numpy()),
                ])
            )  # fmt: skip
        found = pl.concat(pieces).with_columns(pl.lit(route).alias("route"))
        return _arranged(found, asked[start:stop], k, data if titles else None, path.suffix, one_row, escape_formulas)

    plan = {
        "similar": True, "model": _model_hash(rec), "data": data.fingerprint, "items": hash_of(asked.to_list()),
        "k": k, "layout": [one_row, titles, escape_formulas],
    }  # fmt: skip
    return write_in_parts(path, plan, len(asked), _part_size(k), make, on_progress)


def _users(rec: Artifact, users: Any, unknown: str) -> pl.Series:
    """The users asked about, checked before anything is computed."""
    if users is None:
        return rec.known.users.ids.rename("user_id")
    column = id_column(users, rec.known.users, "users=").rename("user_id")
    require_users(rec.known, column, unknown)
    if column.n_unique() < len(column):
        twice = column.filter(column.is_duplicated())[0]
        raise ConfigError(f"user {twice!r} is given twice in users=; give each user once")
    return column


def _shard(ids: pl.Series, shard: tuple[int, int]) -> pl.Series:
    """The i-th of n equal parts."""
    i, n = shard
    if not 1 <= i <= n:
        raise ConfigError(f"shard = {i}/{n} is out of range; give i/n with i from 1 to n")
    start, stop = len(ids) * (i - 1) // n, len(ids) * i // n
    return ids[start:stop]


def _part_size(k: int) -> int:
    return max(1, min(MAX_USERS_PER_PART, ROWS_PER_PART // k))


def _model_hash(rec: Artifact) -> str:
    """A hash of the model's class, settings and weights."""
    arrays = [value.detach().cpu().contiguous().numpy() for value in rec.model.state_dict().values()]
    weights = (memoryview(array).cast("B") for array in arrays if array.size)
    return hash_of(type(rec.model).__name__, asdict(rec.model.config), *weights)


def _cosines(vectors_ND: Tensor) -> Callable[[Tensor], Tensor]:
    unit_ND = normalize(vectors_ND.detach().float(), dim=1)
    return lambda item_B: unit_ND[item_B] @ unit_ND.T


def _co_occurrences(data: Dataset) -> Callable[[Tensor], Tensor]:
    """See `palate.recommender.item_similarity`; items that nobody has together may not be listed."""
    shape = (data.n_users, data.n_items)
    has = scipy.sparse.csr_matrix(
        (np.ones(len(data), np.float32), np.array(data.item), np.array(data.offsets)), shape=shape
    )
    has.sum_duplicates()
    has.data[:] = 1
    by_item = has.T.tocsr()
    norm_N = np.sqrt(np.maximum(data.item_counts, 1)).astype(np.float32)

    def score(item_B: Tensor) -> Tensor:
        both_BN = (by_item[item_B.numpy()] @ has).toarray()
        cosine_BN = torch.from_numpy(both_BN / norm_N[item_B.numpy()][:, None] / norm_N)
        return cosine_BN.masked_fill(cosine_BN == 0, -INF)

    return score


def _arranged(
    found: pl.DataFrame, asked: pl.Series, k: int, titled: Dataset | None, suffix: str, one_row: bool, escape: bool
) -> pl.DataFrame:
    """Lists in the columns of the file.

    Args:
        found: One row for each listed item, whoever asked first.
        asked: All who asked.
        k: List length.
        titled: The data with the items' titles, if they are wanted.
        suffix: Format of the file.
        one_row: Whether to write one row for each who asked.
        escape: Whether to escape formulas.
    """
    key = asked.name
    if titled is not None:
        titles = pl.Series("title", titled.titles(titled.items.index(found["item_id"])), pl.String)
        found = found.insert_column(2, titles)
    if one_row:
        names = [name for name in found.columns if name not in (key, "rank", "route")]
        lists = found.group_by(key, maintain_order=True).agg(pl.col("route").first(), *names)
        found = asked.to_frame().join(lists, on=key, how="left", maintain_order="left")
        found = found.with_columns(pl.col(names).fill_null([]))
        if suffix == ".csv":
            found = found.select(key, "route", *_numbered(names, k))
    if escape and suffix == ".csv":
        found = found.with_columns(pl.col(pl.String).str.replace(FORMULA, "'$1"))
    return found


def _numbered(names: Sequence[str], k: int) -> list[pl.Expr]:
    """Columns `item_1` ... `item_k`, and the same for the other lists; empty after the last item."""
    return [
        pl.col(name).list.get(place, null_on_oob=True).alias(f"{name.removesuffix('_id')}_{place + 1}")
        for name in names
        for place in range(k)
    ]
