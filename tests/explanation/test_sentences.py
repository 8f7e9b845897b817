"""Sentences of explanations are true of their tables; benchmarks/explanation_sentences.py checks 500 of real data."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sentences import Told, faults, sample

from palate.recommender.recommender import Recommender

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))

from test_contract import CASES


def trained(name: str) -> Recommender:
    case = CASES[name]
    model = case.new(case.train)
    model.fit(case.train, replace(case.training, epochs=min(case.training.epochs or 5, 5)))
    return Recommender(name=name, model=model, data=case.train, training=case.training, records=[])


@pytest.mark.parametrize("name", ["ease", "mf", "neumf", "content-knn", "two-tower", "hybrid", "bias"])
def test_sentences_are_true_of_their_tables(name: str) -> None:
    told = list(sample(trained(name), 12, seed=3))
    assert {one.kind for one in told} == {"listed", "in the list", "outside the list", "already seen"}
    assert not [(one.text, found) for one in told if (found := faults(one))]


def first(name: str, kind: str) -> Told:
    return next(one for one in sample(trained(name), 60, seed=1) if one.kind == kind and "(+" in one.text)


def test_the_check_finds_what_is_wrong() -> None:
    told = first("ease", "listed")
    assert not faults(told)
    name = told.text.split(" (+")[0].split("you ", 1)[1].split(" ", 1)[1]
    number = told.text.split("(+")[1].split(")")[0]
    for text, fault in [
        (told.text.replace(name, "another film"), "names what its table does not show"),
        (told.text.replace(f"+{number}", "+99.5"), "says \\+?99.5 where the table has"),
        (told.text[:1].lower() + told.text[1:], "capital"),
        (f"Recommended: {name}", "no verb"),
        (f"Recommended because your history speaks against it: {name} (-0.1)", "speaks against the item"),
        (f"Ranks 77th for this user, outside the top 10. {told.text}", "of the list outside it"),
    ]:
        assert any(re.search(fault, found) for found in faults(replace(told, text=text))), fault
    itself = replace(told.table, item=told.table.of("history")[0].key)
    assert "the item is a reason for itself" in faults(replace(told, table=itself))
    outside = first("ease", "outside the list")
    assert any("does not say" in found for found in faults(replace(outside, text=outside.text.split(". ", 1)[1])))
    assert any("says rank" in found for found in faults(replace(outside, rank=11)))
