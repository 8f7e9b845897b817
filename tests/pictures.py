"""The planted people with a picture for each item, whose colour is the item's topic."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import polars as pl

from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.testing import planted

COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60))


@cache
def pictured(shuffled: bool = False) -> Split:
    """As `make_pictured`, the same object for each caller, with what was encoded of it."""
    return make_pictured(shuffled)


def make_pictured(shuffled: bool = False) -> Split:
    """`planted()` with a column `poster`: 12 x 16 noise on the topic's colour.

    Args:
        shuffled: Each picture goes to another item, so that pictures say nothing.
    """
    parts = planted()
    return replace(parts, **{name: _with(getattr(parts, name), shuffled) for name in ("train", "test")})


def _with(part: Dataset, shuffled: bool) -> Dataset:
    assert part.item_table is not None
    numbers = [int(name[1:]) for name in part.item_table["item_id"]]
    order = np.random.default_rng(3).permutation(80) if shuffled else np.arange(80)
    posters = [picture(int(order[number]) % 4, number) for number in numbers]
    history = None if part.history is None else _with(part.history, shuffled)
    table = part.item_table.select("item_id", pl.Series("poster", posters, dtype=pl.Binary))
    return replace(part, item_table=table, history=history)


def picture(topic: int, number: int) -> bytes:
    """A PNG."""
    from PIL import Image

    rng = np.random.default_rng(number)
    pixels = np.array(COLOURS[topic]) + rng.normal(0, 30, (16, 12, 3))
    file = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
