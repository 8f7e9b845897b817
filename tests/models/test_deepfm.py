"""deepfm: all pairs as one by one, the formulas by hand, people of whom only features are known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.models.content.deepfm import DeepFM, DeepFMConfig, FieldNet, FieldVectors
from palate.testing import planted

D = 3


def sides() -> tuple[FieldVectors, FieldVectors]:
    """Five people of two fields and seven items of three."""
    rng = torch.Generator().manual_seed(0)

    def draw(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, generator=rng)

    return FieldVectors(draw(5, 2 * D), draw(5, 1)[:, 0]), FieldVectors(draw(7, 3 * D), draw(7, 1)[:, 0])


@pytest.mark.parametrize("cross", ["fm", "cross", "wide"])
def test_every_pair_scores_as_it_does_alone(
    cross: Literal["fm", "cross", "wide"], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, item = sides()
    net = FieldNet(2 * D, 3 * D, D, cross, (8, 4), 2, 0.3).eval()
    row, column = torch.arange(5).repeat_interleave(7), torch.arange(7).repeat(5)
    one_by_one = net.pairs(user, item, row, column).view(5, 7)
    torch.testing.assert_close(net.all_pairs(user, item), one_by_one)
    monkeypatch.setattr("palate.models.content.deepfm.MAX_HIDDEN_VALUES", 200)
    torch.testing.assert_close(net.all_pairs(user, item), one_by_one)


def test_the_parts_by_hand() -> None:
    user, item = sides()
    both = torch.cat([user.fields[1], item.fields[2]])
    linear = user.linear[1] + item.linear[2]
    pair = torch.tensor([1]), torch.tensor([2])

    def deep(net: FieldNet) -> Tensor:
        hidden = both
        for layer in net.layers:
            hidden = torch.relu(layer(hidden))
        return net.head(hidden)[0]

    fm, wide, crossed = (FieldNet(2 * D, 3 * D, D, kind, (8, 4), 2, 0.0).eval() for kind in ("fm", "wide", "cross"))
    torch.testing.assert_close(wide.pairs(user, item, *pair)[0], linear + deep(wide))
    products = sum(float(a @ b) for a, b in combinations(both.view(5, D), 2))
    torch.testing.assert_close(fm.pairs(user, item, *pair)[0], linear + products + deep(fm))
    x = both
    for layer in crossed.crosses:
        x = both * layer(x) + x
    assert crossed.cross_head is not None
    torch.testing.assert_close(crossed.pairs(user, item, *pair)[0], linear + deep(crossed) + crossed.cross_head(x)[0])


@cache
def fitted(user_features: bool = True) -> DeepFM:
    data = planted().train if user_features else _bare()
    model = DeepFM(DeepFMConfig(dim=8, layers=(16,), id_dropout=0.3), DeepFM.spec_of(data))
    model.fit(data, Training(epochs=8, batch_size=256, lr=0.03))
    return model


def _bare() -> Dataset:
    return replace(planted().train, user_table=None, item_table=None)


def test_a_new_person_is_answered_by_what_is_known_of_them() -> None:
    data, model = planted().train, fitted()
    assert "new_user" in model.answers
    known = data.queries(np.arange(40), model.spec)
    strangers = Queries(torch.full((40,), -1), Ragged.empty(40), None, known.features)
    scores = model.score(strangers)
    taste, topic = torch.arange(40) % 4, torch.arange(80) % 4
    mine = topic == taste.unsqueeze(1)
    best = scores.topk(10).indices
    assert float(mine.gather(1, best).float().mean()) > 0.8
    # People of one club get one list.
    torch.testing.assert_close(scores[0], scores[4])


def test_without_features_it_is_a_model_of_ids() -> None:
    model = fitted(False)
    assert model.answers == {"known_user", "similar_items"}
    scores = model.score(_bare().queries(np.arange(3), model.spec))
    assert scores.shape == (3, 80)
