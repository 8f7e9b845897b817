"""onboard: the items to ask a new person about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

import palate
from palate.data.dataset import Dataset
from palate.errors import ConfigError
from palate.recommender.onboarding import entropy
from palate.recommender.recommender import Recommender
from palate.testing import planted


def table(rows: list[tuple[str, str, float]]) -> Dataset:
    return Dataset.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row"))


def test_information_by_hand() -> None:
    rows = [(f"u{u}", "split", 1.0 + 4 * (u % 2)) for u in range(8)]  # one bit, eight people
    rows += [(f"u{u}", "loved", 5.0) for u in range(8)]  # nothing to be learned
    rows += [("u0", "rare", 1.0), ("u1", "rare", 5.0)]  # one bit, two people
    data = table(rows)
    found = palate.onboard(data, k=3, diversity=0.0)
    assert found["item_id"].to_list() == ["split", "rare", "loved"]
    assert found["entropy"].to_list() == pytest.approx([1.0, 1.0, 0.0])
    assert found["information"].to_list() == pytest.approx([np.log2(9), np.log2(3), 0.0])
    assert found["interactions"].to_list() == [8, 2, 8]
    assert found["rank"].to_list() == [1, 2, 3]


def test_without_ratings_the_entropy_is_that_of_having_it() -> None:
    data = replace(
        table([(f"u{u}", "i", 1.0) for u in range(2)] + [(f"u{u}", "j", 1.0) for u in range(8)]), rating=None
    )
    share = np.array([0.25, 1.0])
    assert entropy(data) == pytest.approx([-(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75)), 0.0])
    assert data.item_counts / data.n_users == pytest.approx(share)


def test_a_fine_scale_is_read_in_steps() -> None:
    rows = [(f"u{u}", "i", float(u)) for u in range(40)] + [(f"u{u}", "j", 0.0) for u in range(40)]
    assert entropy(table(rows)) == pytest.approx([np.log2(10), 0.0], abs=1e-9)


def test_questions_are_spread_over_the_tastes_only_with_diversity() -> None:
    data = planted().train
    assert data.item_table is not None
    genre = data.item_table["genre"]

    def shares(known: Dataset | Recommender, diversity: float) -> float:
        found = palate.onboard(known, k=8, diversity=diversity)
        assert found["item_id"].n_unique() == 8
        chosen = genre[data.items.index(found["item_id"])]
        return float(chosen.value_counts()["count"].max() / 8)  # type: ignore[arg-type]

    for known in (data, Recommender.train(data, "puresvd", {"dim": 4})):
        assert shares(known, 0.7) <= min(shares(known, 0.0), 0.375)


def test_titles_stand_beside_the_ids() -> None:
    found = palate.onboard(planted().train, k=2)
    assert found.columns == ["rank", "item_id", "title", "interactions", "entropy", "information"]
    assert found.height == 2


def test_more_than_there_are_and_what_cannot_be() -> None:
    assert palate.onboard(planted().train, k=500).height == 80
    for wrong in ({"k": 0}, {"diversity": 1.5}):
        with pytest.raises(ConfigError, match="k must be at least 1, and diversity from 0 to 1"):
            palate.onboard(planted().train, **wrong)  # type: ignore[arg-type]
