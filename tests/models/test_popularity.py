"""popularity: counts, the same for everybody."""

from __future__ import annotations

import polars as pl
import torch

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.models.popularity import Popularity, PopularityConfig


def test_scores_are_counts() -> None:
    frame = pl.DataFrame({"user_id": [1, 1, 2, 3, 3], "item_id": ["a", "b", "b", "b", "c"]})
    data = Dataset.from_frame(frame)
    model = Popularity(PopularityConfig(), data.spec)
    model.fit(data)
    queries = Queries(torch.tensor([0, -1, -1]), Ragged.of([[], [2], []]))
    assert model.score(queries).tolist() == [[1.0, 3.0, 1.0]] * 3
