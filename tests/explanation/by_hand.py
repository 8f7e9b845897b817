"""A model that adds up numbers written down by hand, and data for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch

from palate.data.dataset import Dataset
from palate.models.linear.ease import EASE, EASEConfig


def dataset(histories: Sequence[Sequence[int]], n_items: int) -> Dataset:
    """People with these histories, oldest first; a last one, who has everything, makes the catalogue complete."""
    rows = [(f"u{user}", item) for user, items in enumerate(histories) for item in items]
    rows += [("zz", item) for item in range(n_items)]
    titles = pl.DataFrame({"item_id": list(range(n_items)), "title": [f"Film {item}" for item in range(n_items)]})
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    return Dataset.from_frame(frame, items=titles)


def adder(data: Dataset, weight: np.ndarray | list[list[float]]) -> EASE:
    """score(i) = sum of weight[h, i] over the history."""
    model = EASE(EASEConfig(), data.spec)
    model.weight = torch.as_tensor(np.asarray(weight), dtype=torch.float32)
    model.fallback.learn(data)
    return model.eval()


def four() -> tuple[EASE, Dataset]:
    """Film 4 leads film 5 by 8 to 7; the history's items add 4, 3, 2, -1 to it, and 1, 1, 1, 4 to the other."""
    data = dataset([[0, 1, 2, 3]], 6)
    weight = np.zeros((6, 6))
    weight[:4, 4] = [4, 3, 2, -1]
    weight[:4, 5] = [1, 1, 1, 4]
    return adder(data, weight), data


def planted(rng: np.random.Generator, people: int = 40, n_items: int = 60, had: int = 14) -> tuple[EASE, Dataset]:
    """Random sums over random histories, a few weights large."""
    histories = [sorted(rng.choice(n_items, had, replace=False).tolist()) for _ in range(people)]
    data = dataset(histories, n_items)
    weight = rng.normal(size=(n_items, n_items)) + 4 * (rng.random((n_items, n_items)) < 0.05)
    np.fill_diagonal(weight, 0)
    return adder(data, weight), data
