"""Explainers against planted causes, enumeration, the shap package, and models with other weights."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from causes import fitted, planted_causes, playing, strangers
from torch import Tensor

from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.explanation import EXPLAINERS
from palate.explanation.explain import explain
from palate.explanation.players import Game, Player, game
from palate.explanation.shapley import enumerated, sampled

FAMILIES = ["ease", "itemknn", "ials", "multvae", "mlp", "neumf"]
TWELVE = ["ease", "ials", "mf", "multvae", "neumf"]


@pytest.mark.parametrize("method", ["exact", "shap", "occlusion", "lime", "gradient"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_true_cause_comes_first(name: str, method: str) -> None:
    fits = {"exact": ("ease", "itemknn", "ials"), "gradient": ("ease", "multvae")}
    if name not in fits.get(method, FAMILIES):
        pytest.skip(f"{method} does not fit {name}")
    found = []
    for query, item, cause in strangers():
        told = explain(fitted(name), planted_causes(), query, item, method, samples=300)
        history = told.of("history")
        found.append(history[0].key == cause and history[0].value > 0)
    assert np.mean(found) >= (0.9 if method == "lime" else 0.95)


def twelve(name: str, place: int) -> Game:
    """A query with twelve items of history, causes and others."""
    data, rng = planted_causes(), np.random.default_rng(place)
    item = int(data.items.index([f"effect {place}"])[0])
    others = [i for i in range(data.n_items) if i != item]
    history = rng.choice(others, 12, replace=False).tolist()
    return game(fitted(name), data, Queries(torch.tensor([-1]), Ragged.of([history])), item)


@pytest.mark.parametrize("name", TWELVE)
def test_sampled_values_are_within_three_errors_of_enumeration(name: str) -> None:
    far = []
    for place in range(4):
        one = twelve(name, place)
        base, truth = enumerated(one)
        start, value, error, used = sampled(one, 1000, torch.Generator().manual_seed(place))
        assert used <= 1000
        assert start == pytest.approx(base, abs=1e-5)
        scale = float(np.abs(truth).max())
        far += (np.abs(value - truth) / np.maximum(error, 1e-6 * scale)).tolist()
        assert value.sum() == pytest.approx(truth.sum(), abs=1e-5)
    # Of 48 normal errors one in 370 is beyond three; t with 44 degrees of freedom, one in 220.
    assert np.mean(np.array(far) <= 3) >= 47 / 48


def test_enumeration_by_hand() -> None:
    def by_hand(masks: Tensor) -> Tensor:
        a, b, c = masks.double().T
        return 1 + 2 * a + 3 * b + 4 * a * b + 6 * a * b * c

    class Hand(Game):
        def __init__(self) -> None:
            self.players = (Player("history", 0, "a"), Player("history", 1, "b"), Player("history", 2, "c"))

        def __call__(self, masks_MP: Tensor) -> Tensor:
            return by_hand(masks_MP)

    base, values = enumerated(Hand())
    assert base == 1
    np.testing.assert_allclose(values, [2 + 2 + 2, 3 + 2 + 2, 2])


@pytest.mark.parametrize("name", ["ease", "multvae", "neumf"])
def test_the_shap_package_agrees(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shap = pytest.importorskip("shap", reason="needs the explain extra")
    one = playing(name)
    count = len(one.players)

    def score(rows: np.ndarray) -> np.ndarray:
        return one(torch.from_numpy(rows > 0.5)).double().numpy()

    base, ours = enumerated(one)
    off, on = np.zeros((1, count)), np.ones((1, count))
    kernel = shap.KernelExplainer(score, off)
    values = kernel.shap_values(on, nsamples=2**count, l1_reg=0, silent=True)[0]
    scale = np.abs(ours).max()
    np.testing.assert_allclose(values, ours, atol=1e-3 * scale)
    assert kernel.expected_value == pytest.approx(base, abs=1e-3 * scale)
    orders = shap.PermutationExplainer(score, off, seed=0)
    again = orders(on, max_evals=100 * (2 * count + 1), silent=True)
    np.testing.assert_allclose(again.values[0], ours, atol=0.1 * scale)


@pytest.mark.parametrize("method", ["shap", "lime", "occlusion", "gradient"])
def test_other_weights_give_other_reasons(method: str) -> None:
    model = fitted("multvae")
    blank = type(model)(model.config, model.spec)
    blank.fallback.load_state_dict(model.fallback.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in blank.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    blank.eval()
    alike = []
    for query, item, _ in strangers()[:10]:
        told = [explain(one, planted_causes(), query, item, method, samples=100) for one in (model, blank)]
        left, right = ({c.key: c.value for c in e.of("history")} for e in told)
        alike.append(np.corrcoef([left[k] for k in left], [right[k] for k in left])[0, 1])
    assert abs(np.mean(alike)) < 0.5


def test_methods_are_deterministic() -> None:
    one = twelve("multvae", 0)
    for name in ("shap", "lime", "occlusion", "gradient"):
        first, again = (EXPLAINERS[name](one, samples=200, seed=3) for _ in range(2))
        assert first == again
    for name in ("lime",):
        assert EXPLAINERS[name](one, samples=200, seed=3) != EXPLAINERS[name](one, samples=200, seed=4)
