"""Approximate lists: near the exact ones, under the same masks, and plain about what cannot be had."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer, ConfigError, MissingExtra, TrainingError
from palate.models.baselines.bias import Bias, BiasConfig
from palate.models.content.content_ials import ContentIALS, ContentIALSConfig
from palate.models.content.convmf import ConvMF
from palate.models.content.two_tower import TwoTower, TwoTowerConfig
from palate.models.content.vbpr import VBPR
from palate.models.hybrid.dropoutnet import DropoutNet, DropoutNetConfig
from palate.models.linear.puresvd import PureSVD, PureSVDConfig
from palate.models.mf.ials import IALS, IALSConfig
from palate.models.mf.mf import MF, MFConfig
from palate.ranking.index import Index
from palate.ranking.rules import Rules
from palate.ranking.topk import rank
from palate.recommender.recommender import Recommender
from palate.testing import Case, planted

CASES = {
    "mf": Case(MF, MFConfig(dim=8)),
    "mf-mse": Case(MF, MFConfig(dim=8, loss="mse")),
    "ials": Case(IALS, IALSConfig(dim=8)),
    "puresvd": Case(PureSVD, PureSVDConfig(dim=4)),
    "two-tower": Case(TwoTower, TwoTowerConfig(dim=8)),
    "dropoutnet": Case(DropoutNet, DropoutNetConfig(dim=8)),
    "dropoutnet-mf": Case(DropoutNet, DropoutNetConfig(dim=8, warm="mf")),
    "content-ials": Case(ContentIALS, ContentIALSConfig(dim=8)),
    "vbpr": Case(VBPR),
    "convmf": Case(ConvMF),
}
PEOPLE, ITEMS = 300, 4000


@cache
def model() -> IALS:
    """Items in a hundred clumps, people who like one clump each; a person's history are ten items of it."""
    rng = torch.Generator().manual_seed(0)
    made = IALS(IALSConfig(dim=16), Spec(n_users=PEOPLE, n_items=ITEMS))
    centre = torch.randn(100, 16, generator=rng)
    made.item = centre[torch.arange(ITEMS) % 100] + 0.4 * torch.randn(ITEMS, 16, generator=rng)
    made.user = centre[torch.arange(PEOPLE) % 100] + 0.2 * torch.randn(PEOPLE, 16, generator=rng)
    return made.eval()


@cache
def queries() -> Queries:
    """Everybody; person u has had items u % 100 + 100, + 200 and so on."""
    user = torch.arange(PEOPLE)
    seen = (user.unsqueeze(1) % 100 + 100 * torch.arange(1, 11)).reshape(-1)
    return Queries(user, Ragged.from_lengths(seen, torch.full((PEOPLE,), 10)))


def overlap(some: Tensor, others: Tensor) -> float:
    """The mean share of a list that the other list holds too."""
    return float((some.unsqueeze(2) == others.unsqueeze(1)).any(2).float().mean())


@pytest.mark.parametrize("name", CASES)
def test_factors_order_items_as_scores_do(name: str) -> None:
    case = CASES[name]
    fitted = case.fit()
    asked = case.mixed(fitted)
    asked = asked.take(fitted.answerable(asked).nonzero().squeeze(1))
    factors = fitted.item_factors()
    assert factors is not None
    with torch.no_grad():
        told, scores = fitted.query_factors(asked) @ factors.T, fitted.score(asked)
    spread = scores.std(1, keepdim=True) / told.std(1, keepdim=True)
    moved = (told - told.mean(1, keepdim=True)) * spread
    torch.testing.assert_close(moved, scores - scores.mean(1, keepdim=True), rtol=1e-3, atol=1e-3)


def test_recall_is_high_and_scores_are_the_models_own() -> None:
    exact = rank(model(), queries(), 10)
    found = Index(model()).rank(queries(), 10)
    assert overlap(exact.items, found.items) > 0.95
    same = (exact.items == found.items).all(1)
    assert same.float().mean() > 0.5
    torch.testing.assert_close(found.scores[same], exact.scores[same])
    every = model().score(queries()).gather(1, found.items)
    torch.testing.assert_close(found.scores, every)


def test_looking_at_fewer_cells_finds_less() -> None:
    exact = rank(model(), queries(), 10).items
    shares = [overlap(exact, Index(model(), probes).rank(queries(), 10).items) for probes in (0.016, 0.05, 1.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.99


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_with_all_cells_looked_at_lists_are_the_exact_ones(exclude_seen: bool) -> None:
    allowed = torch.arange(0, ITEMS, 2)
    for candidates in (None, allowed):
        exact = rank(model(), queries(), 10, exclude_seen=exclude_seen, candidates=candidates)
        found = Index(model(), probes=1.0).rank(queries(), 10, exclude_seen=exclude_seen, candidates=candidates)
        assert torch.equal(exact.items, found.items)
        torch.testing.assert_close(exact.scores, found.scores)


def test_nothing_seen_is_listed_and_lists_are_full() -> None:
    found = Index(model()).rank(queries(), 30)
    history = queries().history.padded(10, -2)
    assert not (found.items.unsqueeze(2) == history.unsqueeze(1)).any()
    assert (found.items >= 0).all()
    again = Index(model()).rank(queries(), 30, exclude_seen=False)
    assert (again.items.unsqueeze(2) == history.unsqueeze(1)).any()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3])
def test_candidates_are_honoured_and_lists_as_full_as_they_can_be(share: float) -> None:
    allowed = torch.from_numpy(np.random.default_rng(1).choice(ITEMS, round(share * ITEMS), replace=False))
    exact = rank(model(), queries(), 10, candidates=allowed)
    found = Index(model()).rank(queries(), 10, candidates=allowed)
    assert torch.isin(found.items[found.items >= 0], allowed).all()
    assert torch.equal(found.items >= 0, exact.items >= 0)
    if share < 0.05:  # so few that all are scored
        assert torch.equal(found.items, exact.items)


def test_a_candidate_that_is_nowhere_near_is_found_nonetheless() -> None:
    """More candidates than a search looks at, all of them in cells that some people's searches never see."""
    far = (model().user[:1] @ model().item.T).squeeze(0).argsort()[: ITEMS // 4]
    one = queries().take(torch.tensor([0]))
    found = Index(model()).rank(one, 10, candidates=far)
    assert torch.equal(found.items, rank(model(), one, 10, candidates=far).items)


def test_strangers_get_popularity() -> None:
    data = planted().train
    fitted = CASES["ials"].fit()
    asked = CASES["ials"].mixed(fitted)
    assert not fitted.answerable(asked).all()
    found = Index(fitted, probes=1.0).rank(asked, 5)
    assert torch.equal(found.items, rank(fitted, asked, 5).items)
    assert int(found.items[-1, 0]) == int(data.item_counts.argmax())


def test_the_same_index_again() -> None:
    first, second = (Index(model()).rank(queries(), 10) for _ in range(2))
    assert torch.equal(first.items, second.items)
    assert Index(model()).bytes < 4 * model().item.numel()


def test_a_recommender_builds_its_index_once_and_saves_none(tmp_path: Path) -> None:
    rec = Recommender.train(planted().train, "ials", {"dim": 8})
    exact, near = (rec.recommend(["u001", "u002"], k=5, approximate=flag) for flag in (False, True))
    assert exact.columns == near.columns
    assert near.height == 10
    assert near["route"].unique().to_list() == ["known_user"]
    index = rec.index
    rec.recommend(history=["i01", "i05"], approximate=True)
    assert rec.index is index
    rec.save(tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    assert near.equals(loaded.recommend(["u001", "u002"], k=5, approximate=True))


def test_new_items_are_in_a_new_index() -> None:
    data = planted().train
    rec = Recommender.train(data, "two-tower", {"dim": 8}, Training(epochs=5, batch_size=64, lr=0.02))
    assert rec.index.found.ntotal == data.n_items
    grown = rec.add_items(pl.DataFrame({"item_id": ["new"], "title": ["drama 81"], "genre": ["drama"]}))
    assert grown.index.found.ntotal == data.n_items + 1
    assert grown.recommend(["u001"], candidates=["new"], approximate=True)["item_id"].to_list() == ["new"]


def test_rules_with_approximate_lists() -> None:
    rec = Recommender.train(planted().train, "ials", {"dim": 8})
    found = rec.recommend(["u001"], k=5, rules=Rules(where="genre = 'drama'", diversity=0.3), approximate=True)
    table = rec.data.item_table
    assert table is not None
    drama = table.filter(pl.col("genre") == "drama")["item_id"]
    assert found.height == 5
    assert found["item_id"].is_in(drama.implode()).all()
    with pytest.raises(ConfigError, match="ask for exact lists"):
        rec.recommend(["u001"], rules=Rules(popularity=1.0), approximate=True)


def test_a_model_without_factors_is_refused() -> None:
    data: Dataset = planted().train
    bias = Bias(BiasConfig(), data.spec)
    bias.fit(data)
    with pytest.raises(CannotAnswer, match="Bias does not score items by dot products"):
        Index(bias)


def test_what_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for probes in (0.0, 1.5):
        with pytest.raises(ConfigError, match="not a share"):
            Index(model(), probes)
    broken = IALS(IALSConfig(dim=2), replace(model().spec, n_items=3))
    broken.item[1, 1] = torch.nan
    with pytest.raises(TrainingError, match="NaN"):
        Index(broken)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"need FAISS: .* install "):
        Index(model())


def test_a_list_does_not_depend_on_who_else_is_asked() -> None:
    index = Index(model())
    together = index.rank(queries(), 10).items
    alone = [index.rank(queries().take(torch.tensor([row])), 10).items for row in range(0, PEOPLE, 5)]
    assert torch.equal(torch.cat(alone), together[::5])
