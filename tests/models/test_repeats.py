"""What docs/models.md says of repeated items is what every model does, in training and in a history."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import polars as pl
import pytest
import torch
from test_contract import CASES
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.events import Events
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.models import MODELS
from palate.models.base import Model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
RATINGS = {3: 5.0, 5: 4.0, 7: 2.0}
NAMES = {model: name for name, model in MODELS.items()}


def documented() -> dict[str, tuple[str, str]]:
    """Model -> what the page says of repeats in training and in a history."""
    section = PAGE.read_text(encoding="utf-8").split("## What a repeated item means")[1].split("\n## ")[0]
    found: dict[str, tuple[str, str]] = {}
    for line in re.findall(r"^\| (.*`) \|$", section, re.MULTILINE):
        training, history, models = line.split(" | ")
        for name in re.findall(r"`([\w-]+)`", models):
            assert name not in found
            found[name] = training, history.split(",")[0]
    return found


SAID = documented()


@pytest.fixture(autouse=True, scope="module")
def small_pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palate.data.features.encode.IMAGE_SIZE", (3, 8, 8))
        patch.setenv("PALATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_the_page_names_every_model_once() -> None:
    assert set(SAID) == set(MODELS)


def with_repeats(data: Dataset) -> Dataset:
    """Every third row once more, later and with another rating."""
    frame = data.frame()
    again = frame[::3].with_columns(pl.col("timestamp") + 10**9)
    if "rating" in frame.columns:
        again = again.with_columns(rating=6 - pl.col("rating"))
    found = Dataset.from_frame(
        pl.concat([frame, again]), data.item_table, data.user_table, data.rating_scale, item_kinds=data.item_kinds
    )
    return replace(found, events=Events(repeats=True))


@cache
def fitted(name: str) -> tuple[Model, Model]:
    """The model of all rows, and that of the last row of each user and item alone."""
    data = with_repeats(CASES[name].train)
    return CASES[name].fit(data), CASES[name].fit(replace(data.without_repeats, events=Events()))


def said(name: str, column: int) -> str:
    """What the page says of a case; a blend and a hybrid do in training what their members do."""
    found = SAID[NAMES[CASES[name].model]][column]
    return (
        {"hybrid": "last row", "blend": ("last row", "once")[column], "blend-ratings": ("last row", "counted")[column]}[
            name
        ]
        if found == "as its members"
        else found
    )


def differ(left: Tensor, right: Tensor) -> bool:
    """Whether scores differ by more than rounding."""
    return float((left - right).abs().max()) > 1e-5 * float(right.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_repeats_in_training(name: str) -> None:
    all_rows, last_rows = fitted(name)
    history = Ragged.of([[3, 7, 5]] * 4)
    queries = Queries(torch.arange(4), history, torch.tensor([RATINGS[i] for i in [3, 7, 5] * 4]))
    found, expected = (model.score(queries) for model in (all_rows, last_rows))
    assert said(name, 0) in ("each row", "last row", "not read")
    assert differ(found, expected) == (said(name, 0) == "each row")


@pytest.mark.parametrize("name", CASES)
def test_repeats_in_a_history(name: str) -> None:
    model, _ = fitted(name)

    def scores(*items: int) -> Tensor:
        ratings = torch.tensor([RATINGS[i] for i in items]) if "rating" in model.needs | model.answers else None
        return model.score(Queries(torch.tensor([-1]), Ragged.of([items]), ratings))[0]

    once, first, last = scores(3, 7, 5), scores(3, 3, 7, 5), scores(3, 7, 5, 3)
    seen = {
        (False, False): {"once", "not read"},
        (True, False): {"counted"},
        (True, True): {"in order"},
    }[differ(first, once), differ(first, last)]
    assert said(name, 1) in seen
    assert (said(name, 1) == "not read") == (not differ(scores(5, 7), once))
