"""summarise(): by hand on a sum; what moves lists, how concentrated it is, and the pictures."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from by_hand import adder, dataset, four, planted

from palate.config import Training
from palate.data.dataset import Dataset
from palate.errors import ConfigError, DataError
from palate.explanation.fidelity import fidelity
from palate.explanation.pictures import fidelity_picture, summary_picture
from palate.explanation.summary import summarise
from palate.models import MODELS

PNG = b"\x89PNG\r\n\x1a\n"


def test_history_by_hand():
    data = dataset([[0, 1], [0, 2], [1, 2]], 5)
    weight = np.zeros((5, 5))
    weight[:3, 3] = [4, 1, -2]
    found = summarise(adder(data, weight), data, users=np.array([0, 1, 2]))
    assert found.method == "exact"
    # Film 3 is the top item of the first two; for the third, 1 - 2 is below the 0 of film 0. Contributions are relative
    # to the mean over three unseen films, of which film 3 alone has weights.
    assert found.users == 3
    rows = {row["item_id"]: row for row in found.history.to_dicts()}
    assert rows[0]["title"] == "Film 0"
    assert (rows[0]["users"], rows[0]["mean_abs"], rows[0]["largest_for"]) == (2, pytest.approx(8 / 3), 2)
    assert rows[1]["users"] == 2
    assert rows[1]["mean_abs"] == pytest.approx(0.5)  # 2/3 for the first, -1/3 for the third
    assert rows[2]["mean_abs"] == pytest.approx(1.0)
    assert [rows[i]["share"] for i in (0, 1, 2)] == pytest.approx([16 / 25, 3 / 25, 6 / 25])
    assert found.history["item_id"].to_list() == [0, 2, 1]
    assert found.gini == pytest.approx((3 * -2 + 6 * 0 + 16 * 2) / (3 * 25))
    assert found.top_share == pytest.approx(1.0)  # three explanations of two items
    assert found.features.height == found.dependence.height == 0
    assert "The Gini coefficient over 3 history items is 0.35." in str(found)


def test_one_that_carries_all_is_more_concentrated_than_many():
    rng = np.random.default_rng(0)
    even, data = planted(rng)
    weight = np.zeros((60, 60))
    weight[7] = 1 + rng.random(60)
    one = summarise(adder(data, weight), data, users=30)
    many = summarise(even, data, users=30)
    assert one.gini > 0.9 > many.gini
    assert one.history["item_id"][0] == 7
    assert one.history["share"][0] == pytest.approx(1.0)


def recent(people=90, n_items=50):
    """People who like recent films, whatever their genre; ages that say nothing."""
    rng = np.random.default_rng(0)
    year = rng.integers(1950, 2020, n_items)
    chance = np.exp((year - 1985) / 12.0)
    chosen = [rng.choice(n_items, 8, replace=False, p=chance / chance.sum()) for _ in range(people)]
    rows = [(f"u{user}", int(item)) for user, items in enumerate(chosen) for item in items]
    genre = rng.choice(["drama", "comedy"], n_items)
    items = pl.DataFrame({"item_id": range(n_items), "name": ["a film"] * n_items, "year": year, "genre": genre})
    users = pl.DataFrame({"user_id": [f"u{user}" for user in range(people)], "age": rng.integers(15, 70, people)})
    return Dataset.from_frame(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), items, users)


def test_features_and_partial_dependence():
    data, kind = recent(), MODELS["two-tower"]
    model = kind(kind.Config(), kind.spec_of(data))
    model.fit(data, Training(epochs=15, batch_size=128, lr=0.01))
    found = summarise(model, data, users=15, method="occlusion")
    assert set(found.features["column"]) <= {"name", "year", "genre", "age"}
    weights = dict(found.features.filter(kind="feature").select("column", "mean_abs").rows())
    assert weights["year"] > 3 * weights["genre"]
    assert weights["year"] > 3 * weights["age"]
    assert dict(found.features.select("column", "users").rows())["year"] == 15
    years = found.dependence.filter(side="item", column="year")
    assert 1950 <= years["value"].min() < years["value"].max() <= 2020
    assert years["value"].is_sorted()
    assert years["score"].is_sorted()
    # As new items the top ones are recent: set to an old year they lose most.
    assert years["change"][0] == years["change"].min() < -1
    assert abs(years["change"][-1]) < 0.1 * abs(years["change"][0])
    ages = found.dependence.filter(side="user", column="age")
    assert ages.height == 9
    assert np.ptp(ages["score"].to_numpy()) < 0.1 * np.ptp(years["score"].to_numpy())
    assert summary_picture(found).startswith(PNG)


def test_the_same_seed_asks_the_same_people():
    model, data = planted(np.random.default_rng(1))
    one, again, other = (summarise(model, data, users=10, seed=seed) for seed in (0, 0, 1))
    assert one.history.equals(again.history)
    assert not one.history.equals(other.history)


def test_bad_questions():
    model, data = four()
    with pytest.raises(ConfigError, match="users = 0"):
        summarise(model, data, users=0)
    with pytest.raises(ConfigError, match="no method 'magic'"):
        summarise(model, data, method="magic")
    with pytest.raises(DataError, match="itself answers none of these 1 users"):
        summarise(model, data, users=np.array([data.n_users - 1]))


def test_pictures_are_drawn_and_do_not_change():
    model, data = planted(np.random.default_rng(2))
    summary = summarise(model, data, users=10)
    assert summary_picture(summary).startswith(PNG)
    assert summary_picture(summary) == summary_picture(summary)
    found = fidelity(model, data, ["exact", "occlusion"], users=10)
    assert fidelity_picture(found).startswith(PNG)
