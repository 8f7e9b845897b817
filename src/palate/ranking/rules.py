"""Rules: filters and re-ranking of lists, the same for Python, the command line and the service.

    s'(u, i) = s(u, i) + std_i(s(u, .)) (recency * r_i + popularity * p_i)

where r_i and p_i are the item's ranks by recency and by training interactions, scaled from 0 (oldest, least popular) to
1. For diverse lists follows maximal marginal relevance (Carbonell and Goldstein 1998, "The use of MMR, diversity-based
reranking for reordering documents and producing summaries"): the next item of the list is the one with the highest

    (1 - diversity) rel(i) - diversity max_{j listed before} cos(v_i, v_j)

where rel is s' of the items considered, scaled from 0 for the last of them to 1 for the first.

Legend: B queries, N items, P items considered for a list, D width of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn.functional import normalize

from palate.config import check
from palate.data.dataset import Dataset, Queries
from palate.device import on_cpu
from palate.errors import ConfigError
from palate.models.base import Model
from palate.ranking.filters import where
from palate.ranking.index import Index
from palate.ranking.ranked import INF, Ranked, sketch
from palate.ranking.topk import rank

POOL_FACTOR, MIN_POOL = 10, 100
"""Items considered for a diverse list: this multiple of its length, and at least so many."""
MAX_VALUES = 2**24
"""Most vector entries in memory at once: 64 MB."""
MAX_BOOST = 1e6
"""Most standard deviations that `recency` and `popularity` add: far beyond any order that they leave to the model."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which items a list may hold and how it is re-ranked; the default changes nothing."""

    where: str | None = None
    """Only items for which this SQL condition on the columns of the item table holds, for example
    "year >= 1990 AND genres LIKE '%Comedy%'" (see `palate.ranking.filters`). Items without a value are excluded.
    Defaults to all items."""
    exclude: tuple[str | int, ...] = ()
    """Ids of items that no list may hold."""
    diversity: float = 0.0
    """From 0 (the best items) to 1 (items as different from each other as possible)."""
    recency: float = 0.0
    """How much newer items are preferred, in standard deviations (at most 1e6) of the user's scores; negative values
    prefer older ones."""
    recency_by: str | None = None
    """Column of the item table that holds an item's date or year. Defaults to the time of its first interaction."""
    popularity: float = 0.0
    """How much popular items are preferred, in the same unit; negative values prefer less popular ones."""

    def __post_init__(self) -> None:
        bounded = {name: abs(getattr(self, name)) <= MAX_BOOST for name in ("recency", "popularity")}
        check(self, diversity=0 <= self.diversity <= 1, **bounded)


def rank_under(
    rules: Rules | None,
    model: Model,
    data: Dataset,
    queries: Queries,
    k: int,
    *,
    exclude_seen: bool = True,
    candidates: Tensor | None = None,
    index: Index | None = None,
) -> Ranked:
    """The k best items of each query under rules; without rules, as `palate.ranking.topk.rank`.

    Args:
        rules: Filters and re-ranking; None for neither.
        model: A fitted model.
        data: The data it was fitted to; `where` refers to the columns of its item table.
        queries: The questions.
        k: List length.
        exclude_seen: Whether to leave out the items of the query's history.
        candidates: Items that the rules choose from, int64 `[n]`. Defaults to all items.
        index: Index of the model, for approximate lists.

    Raises:
        ConfigError: `where` is not a valid condition or names unknown columns; recency is asked for and the data has
            no times; recency or popularity are combined with an index.
        UnknownId: An excluded item is not in the data.
    """
    rules = rules or Rules()
    boost_N = _boost(rules, model, data)
    if index is not None and boost_N is not None:
        raise ConfigError(
            "recency and popularity change the scores of all items, and approximate lists score only a few; "
            "ask for exact lists, or drop recency and popularity"
        )
    search = partial(rank, model if boost_N is None else _Boosted(model, boost_N)) if index is None else index.rank
    allowed = _allowed(rules, data, candidates)
    if not rules.diversity:
        return search(queries, k, exclude_seen=exclude_seen, candidates=allowed)
    depth = min(model.spec.n_items, max(MIN_POOL, POOL_FACTOR * k))
    pool = search(queries, max(depth, k), exclude_seen=exclude_seen, candidates=allowed)
    vectors = on_cpu(model.item_vectors())
    vectors = sketch(data, model.spec.n_items, seed=0) if vectors is None else vectors.detach()
    return spread(pool, k, vectors, rules.diversity)


def _allowed(rules: Rules, data: Dataset, candidates: Tensor | None) -> Tensor | None:
    """Items that lists may hold; None for all."""
    if rules.where is None and not rules.exclude:
        return candidates
    keep = np.ones(data.n_items, dtype=bool) if rules.where is None else where(data.item_table, rules.where)
    if rules.exclude:
        keep[data.items.require(list(rules.exclude), "item")] = False
    if candidates is None:
        return torch.from_numpy(np.flatnonzero(keep))
    return candidates[torch.from_numpy(keep)[candidates]]


def _boost(rules: Rules, model: Model, data: Dataset) -> Tensor | None:
    """Standard deviations that recency and popularity add to each item's scores, `[N]`; None for nothing."""
    if not rules.recency and not rules.popularity:
        if rules.recency_by is not None:
            raise ConfigError(
                f"recency_by = {rules.recency_by!r} has no effect without recency; "
                "set recency to how much newer items are preferred"
            )
        return None
    boost = torch.zeros(model.spec.n_items)
    if rules.recency:
        boost += rules.recency * _scaled_ranks(_newness(rules, data))
    if rules.popularity:
        boost += rules.popularity * _scaled_ranks(pl.Series(on_cpu(model.fallback.popularity).numpy()))
    return boost


def _newness(rules: Rules, data: Dataset) -> pl.Series:
    """A value for each item, higher for newer ones; null where unknown."""
    if rules.recency_by is not None:
        table = data.item_table
        if table is None or rules.recency_by not in table.columns:
            there = "none" if table is None else ", ".join(table.columns)
            raise ConfigError(
                f"recency_by = {rules.recency_by!r} is not a column of the item table; its columns: {there}"
            )
        column = table[rules.recency_by]
        if not (column.dtype.is_numeric() or column.dtype.is_temporal()):
            raise ConfigError(
                f"recency_by = {rules.recency_by!r} holds {column.dtype}; choose a column of numbers or dates"
            )
        return column
    if data.timestamp is None:
        raise ConfigError(
            "recency needs timestamps, and this data has none; set recency_by to a column of the item table"
        )
    first = np.full(data.n_items, np.iinfo(np.int64).max)  # Items without interactions are the newest.
    np.minimum.at(first, data.item, data.timestamp)
    return pl.Series(first)


def _scaled_ranks(values: pl.Series) -> Tensor:
    """Ranks scaled from 0 (lowest) to 1 (highest), equal values alike, 0.5 for unknown ones, `[N]`."""
    values = values.fill_nan(None) if values.dtype.is_float() else values
    last = max(len(values) - values.null_count() - 1, 1)
    place = ((values.rank("average") - 1) / last).fill_null(0.5)
    return torch.from_numpy(place.cast(pl.Float32).to_numpy(writable=True))


class _Boosted:
    """A model whose scores are raised by a fixed amount for each item."""

    def __init__(self, model: Model, boost_N: Tensor) -> None:
        self.model, self.spec, self.boost_N = model, model.spec, boost_N

    def score(self, queries: Queries, items: Tensor | None = None) -> Tensor:
        """The model's scores, each raised by its item's boost times the standard deviation of the query's scores."""
        scores_BN: Tensor = self.model.score(queries)
        spread_B1 = scores_BN.std(1, correction=0, keepdim=True)
        raised_BN = torch.addcmul(scores_BN, torch.where(spread_B1 > 0, spread_B1, 1.0), self.boost_N)
        return raised_BN if items is None else raised_BN[:, items]


def spread(pool: Ranked, k: int, vectors_ND: Tensor, diversity: float) -> Ranked:
    """Shorter lists of more different items, chosen from longer lists by maximal marginal relevance.

    Args:
        pool: Lists to choose from, best first.
        k: Length of the new ones.
        vectors_ND: Vectors of all items; their cosine is the similarity of two items.
        diversity: From 0 (the first k) to 1 (as different as possible).
    """
    step = max(1, MAX_VALUES // max(pool.items.shape[1] * vectors_ND.shape[1], 1))
    unit_ND = normalize(vectors_ND.float(), dim=1)
    pieces = [
        mmr(pool.items[start : start + step], pool.scores[start : start + step], k, unit_ND, diversity)
        for start in range(0, max(len(pool), 1), step)
    ]
    place_BK = torch.cat(pieces)
    items_BK = pool.items.gather(1, place_BK.clamp(min=0)).masked_fill(place_BK < 0, -1)
    scores_BK = pool.scores.gather(1, place_BK.clamp(min=0)).masked_fill(place_BK < 0, -INF)
    return replace(pool, items=items_BK, scores=scores_BK)


def mmr(items_BP: Tensor, scores_BP: Tensor, k: int, unit_ND: Tensor, diversity: float) -> Tensor:
    """Maximal marginal relevance: positions in each list, in the order chosen, int64 `[B, K]`; -1 after the last.

    Args:
        items_BP: Lists of items, best first, padded with -1.
        scores_BP: Their scores.
        k: K, how many to choose.
        unit_ND: Unit vectors of all items.
        diversity: From 0 to 1.
    """
    free_BP = items_BP >= 0
    vector_BPD = unit_ND[items_BP.clamp(min=0)]
    low_B1 = scores_BP.masked_fill(~free_BP, INF).min(1, keepdim=True).values
    range_B1 = (scores_BP[:, :1] - low_B1).clamp(min=1e-12)
    rel_BP = torch.where(free_BP, (scores_BP - low_B1) / range_B1, 0.0)
    near_BP = torch.full(items_BP.shape, -1.0)
    chosen = []
    for _ in range(k):
        # A trace of rel even with diversity 1: the first item has none before it to differ from.
        gain_BP = ((1 - diversity + 1e-6) * rel_BP - diversity * near_BP).masked_fill(~free_BP, -INF)
        best = gain_BP.max(1, keepdim=True)
        chosen.append(best.indices.masked_fill(best.values == -INF, -1))
        free_BP = free_BP.scatter(1, best.indices, False)
        picked_BD = vector_BPD.gather(1, best.indices.unsqueeze(2).expand(-1, -1, vector_BPD.shape[2])).squeeze(1)
        near_BP = torch.maximum(near_BP, torch.einsum("bpd,bd->bp", vector_BPD, picked_BD))
    return torch.cat(chosen, 1)
