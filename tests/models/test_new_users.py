"""new_users: a Gaussian process over people's vectors, written out with its kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import Training
from palate.data.ragged import Ragged
from palate.errors import ArtifactError
from palate.models.baselines.new_users import LIKE, NOISE, GaussianProcessFoldIn
from palate.models.buffers import check_tensors
from palate.models.hybrid.hybrid import Hybrid, HybridConfig
from palate.models.mf.ials import IALS, IALSConfig
from palate.recommender.recommender import Recommender
from palate.testing import planted


def learned() -> tuple[IALS, GaussianProcessFoldIn]:
    train = planted().train
    model = IALS(IALSConfig(dim=6), train.spec)
    model.fit(train)
    new_users = GaussianProcessFoldIn()
    new_users.learn(model, train)
    return model, new_users


def test_likes_move_scores_as_the_kernel_says() -> None:
    train = planted().train
    model, new_users = learned()
    people, items = model.user.double().numpy(), model.item.double().numpy()
    mean = people.mean(0)
    kernel = items @ np.cov(people.T, bias=True) @ items.T
    noise = NOISE * kernel.diagonal()[train.item].mean()
    surplus = ((people[train.user] - mean) * items[train.item]).sum(1).mean()
    liked = [[3, 17, 40], [5], []]
    found = new_users.score_shift(model, Ragged.of(liked)).numpy()
    for row, likes in zip(found[:2], liked, strict=False):
        weight = np.linalg.solve(kernel[np.ix_(likes, likes)] + noise * np.eye(len(likes)), np.ones(len(likes)))
        expected = LIKE * surplus / (items @ mean).std() * kernel[:, likes] @ weight
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert (found[2] == 0).all()


def test_what_is_like_the_liked_rises_and_one_like_more_says_more() -> None:
    model, new_users = learned()
    one, two = new_users.score_shift(model, Ragged.of([[3], [3, 17]]))
    assert one[3] > one.mean() + one.std()
    assert two[17] > one[17]
    assert two.std() > one.std()


def test_where_nothing_was_learned_likes_move_nothing() -> None:
    model, _ = learned()
    assert (GaussianProcessFoldIn().score_shift(model, Ragged.of([[3, 17]])) == 0).all()


def test_a_warm_model_of_one_sort_of_people_is_no_obstacle() -> None:
    model, new_users = learned()
    model.user[:] = model.user[0]
    new_users.learn(model, planted().train)
    assert torch.isfinite(new_users.score_shift(model, Ragged.of([[3, 17]]))).all()


def test_hybrid_asks_it_where_its_warm_model_has_vectors() -> None:
    train = planted().train
    spec = Hybrid.spec_of(train)
    assert Hybrid(HybridConfig(warm="ials"), spec).new_users is not None
    assert Hybrid(HybridConfig(warm="ease"), spec).new_users is None
    assert Hybrid(HybridConfig(warm="puresvd"), spec).new_users is not None
    assert Hybrid(HybridConfig(warm="ials", prior=0), spec).new_users is None


@pytest.mark.parametrize("warm", ["ials", "puresvd", "mf", "dropoutnet", "two-tower"])
def test_one_like_raises_its_topic_whatever_the_warm_model_of_vectors(warm: str) -> None:
    train = planted().train
    model = Hybrid(HybridConfig(warm=warm, held_out=0), Hybrid.spec_of(train))
    model.fit(train, Training(epochs=10, batch_size=64, lr=0.01))
    assert model.new_users is not None
    moved = model.new_users.score_shift(model.warm, Ragged.of([[8]]))[0]
    topic = torch.tensor([int(name[1:]) % 4 for name in train.items.ids])
    assert float(moved[topic == topic[8]].mean()) > float(moved[topic != topic[8]].mean()) + 0.5 * float(moved.std())


def test_a_loaded_hybrid_folds_in_as_before_and_a_forged_width_is_refused(tmp_path: Path) -> None:
    rec = Recommender.train(planted().train, "hybrid", {"warm": "puresvd", "held_out": 0}, training={"epochs": 1})
    rec.save(tmp_path / "run")
    again = Recommender.load(tmp_path / "run")
    for one in (rec, again):
        assert isinstance(one.model, Hybrid)
        assert one.model.new_users is not None
    assert rec.recommend(history=["i03"]).equals(again.recommend(history=["i03"]))
    assert isinstance(rec.model, Hybrid)
    assert rec.model.new_users is not None
    rec.model.new_users.root = torch.eye(3)
    with pytest.raises(ArtifactError, match=r"new_users.root has shape \(3, 3\); the warm model needs"):
        check_tensors(rec.model)
