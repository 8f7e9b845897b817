"""Every model of MODELS: what it declares to explainers is true, and what it does not declare is refused in words."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.data.queries import Queries
from palate.errors import CannotAnswer
from palate.explanation.explain import explain
from palate.explanation.methods import exact, gradient, is_additive, weighted_scores, weights_history
from palate.explanation.players import Game, game
from palate.models.base import Model
from palate.testing import Case

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
from test_contract import CASES

READERS = [name for name, case in CASES.items() if "history" in case.model.answers]


@cache
def fitted(name: str) -> Model:
    return CASES[name].fit(epochs=1)


def a_query(case: Case, model: Model, length: int = 6) -> Queries:
    query = case.train.queries(np.array([3]), model.spec)
    return query.keep(torch.arange(len(query.history.values)) < length)


def history_game(name: str, known: bool = False) -> Game:
    case, model = CASES[name], fitted(name)
    query = a_query(case, model)
    item = next(i for i in range(case.train.n_items) if i not in query.history.values.tolist())
    return game(model, case.train, query if known else query.anonymous(), item, ["history"])


def test_declarations_are_those_that_there_are() -> None:
    for case in CASES.values():
        model = case.new()
        assert model.gradients <= {"history", "features", "text", "image"}
        assert isinstance(model.additive, bool)


@pytest.mark.parametrize("name", READERS)
def test_declared_sums_are_the_score_and_others_are_refused(name: str) -> None:
    """A known user is no exception: the game is about the fold-in of the history."""
    one = history_game(name, known=True)
    model, queries = one.model, one.queries
    assert is_additive(one) == model.additive
    if not model.additive:
        with pytest.raises(
            CannotAnswer, match=r"exact is not available for .*: its score is not a sum over the history"
        ):
            exact(one)
        return
    for item in (one.item, *one.compared_C[:3].tolist()):
        with torch.no_grad():
            share_T, rest = model.history_contributions(queries, item)
        score = float(model.score(queries)[0, item])
        assert float(share_T.sum()) + rest == pytest.approx(score, rel=1e-4, abs=1e-4)
    told = exact(history_game(name))
    assert sum(c.value for c in told.contributions) == pytest.approx(told.score, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", READERS)
def test_declared_history_weights_answer_as_masks_and_have_gradients(name: str) -> None:
    """Weights that are all 0 or all 1 answer as the masks do.

    Between them a model that divides by the length of a history goes on dividing by that of the whole one: divided by
    the sum of the weights, a history would be the same at any scale, and no path would lead from nothing to it.
    """
    one = history_game(name)
    assert weights_history(one) == ("history" in one.model.gradients)
    if not weights_history(one):
        with pytest.raises(
            CannotAnswer, match=r"gradient is not available for .* no gradient with respect to the histo"
        ):
            gradient(one)
        return
    mask_MP = torch.tensor([[False], [True]]).expand(-1, len(one.players))
    weight_ML = mask_MP[:, one.player_L].float().requires_grad_()
    with torch.enable_grad():
        scores = weighted_scores(one, weight_ML)
        (slope_ML,) = torch.autograd.grad(scores.sum(), weight_ML)
    scale = max(1.0, abs(one.asked.score))
    torch.testing.assert_close(scores.detach(), one(mask_MP), atol=1e-4 * scale, rtol=1e-3)
    assert bool(slope_ML.isfinite().all())
    assert bool((slope_ML != 0).any())


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if "item_features" in case.train.provides])
def test_declared_feature_gradients_add_up_and_others_are_refused(name: str) -> None:
    case, model = CASES[name], fitted(name)
    query = a_query(case, model)
    item = next(i for i in range(case.train.n_items) if i not in query.history.values.tolist())
    kinds: Any = ["feature", "word"]
    try:
        game(model, case.train, query, item, kinds)
    except CannotAnswer:
        pytest.skip("reads no features of this item")
    if not model.gradients & {"features", "text", "image"}:
        with pytest.raises(
            CannotAnswer, match=r"gradient is not available for .* no gradient with respect to these feat"
        ):
            explain(model, case.train, query, item, "gradient", kinds=kinds)
        return
    told = explain(model, case.train, query, item, "gradient", kinds=kinds)
    assert sum(c.value for c in told.contributions) + told.residual == pytest.approx(told.score, abs=1e-4)
    assert abs(told.residual) <= 0.05 * sum(abs(c.value) for c in told.of()) + 1e-4, "the integral's error"
