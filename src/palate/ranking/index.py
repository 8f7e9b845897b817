"""Index: approximate nearest neighbours, for lists from large catalogues without scoring every item.

For models whose scores order items as dot products <x_u, y_i> do (`Model.item_factors`). FAISS partitions the item
vectors into sqrt(N) cells by k-means and keeps them in 8 bits a number: an inverted file (Jégou, Douze, Schmid 2011,
"Product quantization for nearest neighbor search"; Douze et al. 2024, "The Faiss library"). The vector of a query is
compared with the items of the nearest cells, a share `probes` of all. Each query keeps the best of them: twice the list
length plus the length of its history. The model then scores these items itself. So the scores are the model's own, no
seen item and no item outside the candidates is listed, and the only loss is an item whose cell was not searched.

Queries that the model cannot answer itself, and lists for which too few items were found, are ranked exactly
(`palate.ranking.topk.rank`). A list does not depend on the other queries in the call.

Legend: B queries, N items, E width of vectors, I items scored, F items found for each query, K list length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.device import asked_from_anywhere, on_cpu
from palate.errors import CannotAnswer, ConfigError, TrainingError
from palate.extras import missing_extra
from palate.models.base import Model
from palate.ranking.ranked import INF, Ranked, best
from palate.ranking.topk import rank

PROBES = 1 / 16
"""Share of the cells that is searched; see benchmarks/results/catalogue.md."""
SAMPLE_PER_CELL, KMEANS_ROUNDS = 64, 8
"""Items per cell that k-means is fitted to, and its iterations."""
QUERY_BLOCK = 64
"""Queries that are searched and scored at once."""


@asked_from_anywhere
def query_factors(model: Model, queries: Queries) -> Tensor:
    """`Model.query_factors`, wherever the model is."""
    return model.query_factors(queries)


class Index:
    """The items of a fitted model, partitioned into cells.

    The index lives in memory and is built when it is needed. It is not part of an artifact: building takes seconds, and
    an index built from the weights always fits them.

    Args:
        model: A model with `item_factors`.
        probes: Share of the cells that a query searches, above 0; at 1 no item is missed.
        seed: Seed of k-means.

    Raises:
        CannotAnswer: The model's scores are not dot products.
        ConfigError: `probes` is out of range.
        MissingExtra: FAISS is not installed.
        TrainingError: A vector is NaN or infinite.
    """

    @torch.no_grad()
    def __init__(self, model: Model, probes: float = PROBES, seed: int = 0) -> None:
        factors_NE = on_cpu(model.item_factors())
        name = type(model).__name__
        if factors_NE is None:
            raise CannotAnswer(
                f"{name} does not score items by dot products, so it has no approximate lists; ask for exact ones"
            )
        if not 0 < probes <= 1:
            raise ConfigError(f"probes = {probes} is not a share; give a number above 0 and at most 1")
        if not bool(torch.isfinite(factors_NE).all()):
            raise TrainingError(
                f"{name} has NaN or infinite item vectors; train it again, for example with a smaller lr"
            )
        self.model, self.probes = model, probes
        self.cells = max(1, round(len(factors_NE) ** 0.5))
        self.found = _build(factors_NE.detach().float().contiguous(), self.cells, seed)

    @property
    def bytes(self) -> int:
        """Memory of the index: 1 byte for each vector entry, 8 for each item, 4 for each entry of a centre."""
        n_items, width = self.found.ntotal, self.found.d
        return int(n_items * (width + 8) + self.cells * width * 4)

    @torch.no_grad()
    def rank(self, queries: Queries, k: int, *, exclude_seen: bool = True, candidates: Tensor | None = None) -> Ranked:
        """Approximately the k best items of each query; arguments and result as in `palate.ranking.topk.rank`.

        Args:
            queries: The questions.
            k: List length.
            exclude_seen: Whether to leave out the items of the query's history.
            candidates: Items allowed in the lists, int64 `[n]`. Defaults to all items.
        """
        allowed = None if candidates is None else torch.unique(candidates[candidates < self.found.ntotal])
        items_BK, scores_BK = torch.full((len(queries), k), -1), torch.full((len(queries), k), -INF)
        # If there are no more candidates than a search would compare, the model scores them all.
        few = allowed is not None and len(allowed) <= self.probes * self.found.ntotal
        able = torch.arange(len(queries)) if few else self.model.answerable(queries).nonzero().squeeze(1)
        # Queries with histories of similar length together, since all queries of a search find equally many items.
        able = able[queries.history.lengths[able].argsort(stable=True)]
        for rows in able.split(QUERY_BLOCK):  # type: ignore[no-untyped-call]
            some = queries.take(rows)
            found_BF = allowed.expand(len(rows), -1) if allowed is not None and few else None
            if found_BF is None:
                most_B = 2 * k + (some.history.lengths if exclude_seen else torch.zeros_like(rows))
                found_BF = self._search(query_factors(self.model, some), most_B, allowed)
            items_BK[rows], scores_BK[rows] = self._best(some, found_BF, k, exclude_seen)
        short = (items_BK[:, -1] < 0).nonzero().squeeze(1)
        if len(short) and not few:
            exact = rank(self.model, queries.take(short), k, exclude_seen=exclude_seen, candidates=allowed)
            items_BK[short], scores_BK[short] = exact.items, exact.scores
        nothing, uncounted_B = torch.zeros(0, dtype=torch.int64), torch.full((len(queries),), -1)
        return Ranked(items_BK, scores_BK, uncounted_B, Ragged.empty(len(queries)), nothing, nothing)

    def _search(self, query_BE: Tensor, most_B: Tensor, allowed: Tensor | None) -> Tensor:
        """The items found for each query, `[B, F]`, at most `most_B` of each; -1 for none."""
        faiss = _faiss()
        options = faiss.SearchParametersIVF(nprobe=max(1, round(self.probes * self.cells)))
        if allowed is not None:
            mask = np.zeros(self.found.ntotal, dtype=bool)
            mask[allowed.numpy()] = True
            bits = np.packbits(mask, bitorder="little")  # kept in a variable: the selector only points at it
            options.sel = selector = faiss.IDSelectorBitmap(bits)  # noqa: F841
        most = min(int(most_B.max()), self.found.ntotal)
        _, found = self.found.search(query_BE.float().numpy(), most, params=options)
        return torch.from_numpy(found).masked_fill(torch.arange(most) >= most_B.unsqueeze(1), -1)

    def _best(self, queries: Queries, found_BF: Tensor, k: int, exclude_seen: bool) -> tuple[Tensor, Tensor]:
        """The k best of each query's found items and their scores, `[B, K]` both, padded."""
        items_I = torch.unique(found_BF)
        items_I = items_I[items_I >= 0]
        if not len(items_I):
            return torch.full((len(queries), k), -1), torch.full((len(queries), k), -INF)
        score_BI = self.model.score(queries, items_I)
        # Items found for other queries of the block are scored with them, and do not count.
        row, place = (found_BF >= 0).nonzero(as_tuple=True)
        own_BI = torch.zeros(score_BI.shape, dtype=torch.bool)
        own_BI[row, torch.searchsorted(items_I, found_BF[row, place])] = True
        score_BI = score_BI.masked_fill(~own_BI, -INF)
        if exclude_seen:
            seen = queries.history
            place = torch.searchsorted(items_I, seen.values).clamp(max=len(items_I) - 1)
            there = items_I[place] == seen.values
            score_BI[seen.row_of_value[there], place[there]] = -INF
        place_BK, scores_BK, *_ = best(score_BI, k, Ragged.empty(len(queries)), False, False)
        return torch.where(place_BK < 0, -1, items_I[place_BK.clamp(min=0)]), scores_BK


def _build(factors_NE: Tensor, cells: int, seed: int) -> Any:
    faiss = _faiss()
    width, metric = factors_NE.shape[1], faiss.METRIC_INNER_PRODUCT
    centres = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFScalarQuantizer(centres, width, cells, faiss.ScalarQuantizer.QT_8bit, metric)
    index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = seed, KMEANS_ROUNDS, 1
    index.cp.max_points_per_centroid = SAMPLE_PER_CELL
    draw = torch.randperm(len(factors_NE), generator=torch.Generator().manual_seed(seed))
    index.train(factors_NE[draw[: SAMPLE_PER_CELL * cells]].numpy())
    index.add(factors_NE.numpy())
    return index


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise missing_extra("approximate lists need FAISS", "ann") from error
    return faiss
