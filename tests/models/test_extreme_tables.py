"""Extreme tables: finite answers or one clear error; benchmarks/extreme_tables.py runs all models on all of them."""

from __future__ import annotations

import pytest

from extremes import VARIANTS, attempt, tables
from palate.models import MODELS

FASTEST = ("popularity", "bias", "itemknn", "userknn", "rp3beta", "puresvd", "ease", "ials", "gf-cf", "content-knn")
"""Models that are asked about every table."""


def test_there_are_more_than_forty_tables() -> None:
    assert len(tables()) > 40


@pytest.mark.parametrize("table", tables())
def test_fast_models_answer_or_refuse_each_table(table: str) -> None:
    found = {name: attempt(name, tables()[table]) for name in FASTEST}
    assert not {name: one.says for name, one in found.items() if one.kind == "fault"}
    # Seconds and milliseconds cannot be told apart in the one; there is nothing to learn from in the other.
    refused = table in ("times from 0 to the year 9999", "all weights 0")
    assert any(one.kind == "finite" for one in found.values()) != refused


@pytest.mark.parametrize(
    "table", ["ratings times 1e+30", "nothing known of items", "one user and one item", "width one"]
)
def test_every_model_answers_or_refuses_the_worst_tables(table: str) -> None:
    found = {name: attempt(name, tables()[table]) for name in (*MODELS, *VARIANTS)}
    assert not {name: one.says for name, one in found.items() if one.kind == "fault"}


def test_ordinary_tables_are_answered_by_all_models() -> None:
    """The check above passes a model that refuses everything; this one does not."""
    refused = {
        name for name in (*MODELS, *VARIANTS) if attempt(name, tables()["ratings times 100000"]).kind != "finite"
    }
    assert refused == {"ials reg 0"}, refused
