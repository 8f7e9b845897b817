"""Rules: what lists may hold, and how they are re-ranked."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from palate.data.dataset import Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError, UnknownId
from palate.ranking.rules import Rules, mmr, rank_under
from palate.ranking.topk import rank
from palate.recommender.recommender import Recommender
from palate.testing import planted


@cache
def fitted() -> Recommender:
    return Recommender.train(planted().train, "itemknn")


def genres(found: pl.DataFrame) -> list[str]:
    data = fitted().data
    assert data.item_table is not None
    return data.item_table["genre"][data.items.index(found["item_id"])].to_list()


def test_without_rules_lists_are_as_they_are() -> None:
    recommender = fitted()
    users = ["u000", "u001"]
    assert recommender.recommend(users, rules=Rules()).equals(recommender.recommend(users))


def test_only_items_for_which_it_holds_and_none_that_are_excluded() -> None:
    recommender = fitted()
    plain = recommender.recommend("u000", k=10)
    assert set(genres(plain)) != {"drama"}
    found = recommender.recommend("u000", k=10, rules=Rules(where="genre = 'drama'", exclude=("i01", "i05")))
    assert set(genres(found)) == {"drama"}
    assert not {"i01", "i05"} & set(found["item_id"])
    # Rules and candidates hold together.
    some = recommender.recommend("u000", k=10, candidates=["i02", "i09"], rules=Rules(where="genre = 'drama'"))
    assert some["item_id"].to_list() == ["i09"]
    assert recommender.recommend("u000", rules=Rules(where="genre = 'musical'")).is_empty()
    with pytest.raises(ConfigError, match=r"no column 'genr' .*did you mean 'genre'"):
        recommender.recommend("u000", rules=Rules(where="genr = 'musical'"))
    with pytest.raises(UnknownId, match="unknown item 'i99'"):
        recommender.recommend("u000", rules=Rules(exclude=("i99",)))


def test_maximal_marginal_relevance_by_hand() -> None:
    unit = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    items, scores = torch.tensor([[0, 1, 2, 3], [2, 1, -1, -1]]), torch.tensor([[4.0, 3.9, 3.0, 1.0], [2.0, 1.0, 0, 0]])
    scores[1, 2:] = -torch.inf
    assert mmr(items, scores, 4, unit, 0.0)[0].tolist() == [0, 1, 2, 3]
    # After item 0, item 1 gains 0.5 * 0.967 - 0.5 * 1, item 2 0.5 * 0.667 and item 3 0.5 * 0 + 0.5 * 1.
    assert mmr(items, scores, 3, unit, 0.5).tolist() == [[0, 3, 2], [0, 1, -1]]
    assert mmr(items, scores, 2, unit, 1.0)[0].tolist() == [0, 3]


def test_diverse_lists_hold_more_genres_and_do_not_depend_on_who_else_is_asked() -> None:
    recommender = fitted()
    users = recommender.data.users.ids.to_list()[:20]
    counts = []
    for diversity in (0.0, 0.5, 0.9):
        rules = Rules(diversity=diversity)
        found = recommender.recommend(users, k=4, rules=rules)
        one = [set(genres(group)) for _, group in found.group_by("user_id", maintain_order=True)]
        counts.append(float(np.mean([len(g) for g in one])))
        alone = recommender.recommend(users[7], k=4, rules=rules)
        assert alone["item_id"].to_list() == found.filter(pl.col("user_id") == users[7])["item_id"].to_list()
        assert not set(alone["item_id"]) & {
            recommender.data.items.ids[int(i)] for i in recommender.data.histories[7].tolist()
        }
    assert counts[0] < counts[1] <= counts[2]
    short = recommender.recommend(users[0], k=5, rules=Rules(diversity=0.5, where="item_id IN ('i02', 'i09')"))
    assert short.height <= 2


def test_popularity_and_recency_move_lists_as_far_as_they_are_told() -> None:
    recommender = fitted()
    data = recommender.data
    users = data.users.ids.to_list()[:30]

    def mean(values: np.ndarray, rules: Rules) -> float:
        return float(values[data.items.index(recommender.recommend(users, k=5, rules=rules)["item_id"])].mean())

    counts = data.item_counts
    less, plain, more = (mean(counts, Rules(popularity=weight)) for weight in (-2.0, 0.0, 2.0))
    assert less < plain < more
    assert data.timestamp is not None
    first = np.full(data.n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, data.item, data.timestamp)
    older, newer = (mean(first.argsort().argsort(), Rules(recency=weight)) for weight in (-3.0, 3.0))
    assert older + 10 < newer


def test_a_column_says_what_is_new() -> None:
    data = planted().train
    assert data.item_table is not None
    year = pl.Series("year", [None if i == 3 else 1900 + i for i in range(data.n_items)])
    data = replace(data, item_table=data.item_table.with_columns(year), timestamp=None)
    model = fitted().model
    queries = Queries(torch.tensor([-1]), Ragged.empty(1))
    best = rank_under(Rules(recency=100.0, recency_by="year"), model, data, queries, 3).items[0]
    assert best.tolist() == [79, 78, 77]
    with pytest.raises(ConfigError, match="recency needs timestamps"):
        rank_under(Rules(recency=1.0), model, data, queries, 3)
    with pytest.raises(ConfigError, match="recency_by = 'genre' holds String"):
        rank_under(Rules(recency=1.0, recency_by="genre"), model, data, queries, 3)
    with pytest.raises(ConfigError, match="recency_by = 'age' is not a column"):
        rank_under(Rules(recency=1.0, recency_by="age"), model, data, queries, 3)
    with pytest.raises(ConfigError, match="has no effect without recency"):
        rank_under(Rules(recency_by="year"), model, data, queries, 3)


def test_a_constant_list_is_moved_by_the_boost_alone() -> None:
    data, model = planted().train, fitted().model
    flat = Queries(torch.tensor([-1]), Ragged.of([[]]))
    expected = rank(model, flat, 5).items  # a stranger gets popularity
    assert torch.equal(rank_under(Rules(popularity=1.0), model, data, flat, 5).items, expected)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*diversity = 2 .*recency = nan"):
        Rules(diversity=2, recency=float("nan"))
    with pytest.raises(ConfigError, match=r"popularity = 1e\+308 is out of range"):
        Rules(popularity=1e308)
