"""ExplainedUsers: users whose top item is explained, what each is recommended, and the games that explainers play.

Legend: U users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from palate.data.dataset import Dataset
from palate.errors import ConfigError, DataError
from palate.explanation.explanation import Kind
from palate.explanation.masked import MaskedHistoryScores
from palate.explanation.players import Game, game
from palate.ranking.topk import rank

HISTORY: tuple[Kind, ...] = ("history",)
MIN_DISTINCT_ITEMS = 2
"""Distinct items that a history must have: with one, there is only one order."""


@dataclass(frozen=True, eq=False)
class ExplainedUsers:
    """U users with their histories, their top items, and their games.

    Attributes:
        data: Ids and titles.
        users: User indices, int64 `[U]`.
        masked: Their histories and top items.
        games: One for each user.
    """

    data: Dataset
    users: np.ndarray
    masked: MaskedHistoryScores
    games: list[Game]


def history_data(data: Dataset) -> Dataset:
    """The data that histories come from: what was known before a part of a split, else the data itself."""
    return data.known


def candidate_users(known: Dataset, users: int | np.ndarray) -> np.ndarray:
    """The users to draw from, int64: all with a history, or those that are given as indices.

    Raises:
        ConfigError: `users` is below 1.
    """
    if isinstance(users, int) and users < 1:
        raise ConfigError(f"users = {users} is out of range; at least one user is needed")
    return known.active_users if isinstance(users, int) else np.asarray(users, dtype=np.int64)


def draw_users(candidates: np.ndarray, users: int | np.ndarray, seed: int) -> np.ndarray:
    """A random sample of `users` candidates, ascending; all candidates if indices were given or there are fewer."""
    if not isinstance(users, int) or users >= len(candidates):
        return candidates
    return np.sort(np.random.default_rng(seed).choice(candidates, users, replace=False))


def find_users(model: Any, data: Dataset, users: int | np.ndarray, seed: int) -> ExplainedUsers:
    """Draw users with a history, and find the top item of each.

    Args:
        model: Fitted; answers `history`.
        data: The data that histories come from.
        users: How many users to draw, or user indices.
        seed: Seed of the draw.

    Raises:
        CannotAnswer: The model does not answer histories.
        ConfigError: `users` is below 1.
        DataError: None of the users has `MIN_DISTINCT_ITEMS` distinct items.
    """
    known = history_data(data)
    candidates = candidate_users(known, users)
    history = known.histories.take(torch.from_numpy(candidates))
    known_items = history.keep(history.values < model.spec.n_items)
    pair = torch.unique(known_items.row_of_value * model.spec.n_items + known_items.values) // model.spec.n_items
    distinct = torch.bincount(pair, minlength=len(candidates)).numpy()
    candidates = candidates[(distinct >= MIN_DISTINCT_ITEMS) & (distinct < model.spec.n_items)]
    if not len(candidates):
        raise DataError(f"no user has a history of {MIN_DISTINCT_ITEMS} items or more that leaves an item to recommend")
    drawn = draw_users(candidates, users, seed)
    queries = data.queries(drawn, model.spec)
    item_U = rank(model, queries.anonymous(), 1).items[:, 0]
    masked = MaskedHistoryScores(model, queries, item_U)
    games = [
        game(model, data, queries.take(torch.tensor([row])), int(item), HISTORY) for row, item in enumerate(item_U)
    ]
    return ExplainedUsers(data, drawn, masked, games)
