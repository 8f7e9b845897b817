"""two-tower: exact and pooled softmax, ids that can be left out, new items, new users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.content.two_tower import TwoTower, TwoTowerConfig
from palate.testing import planted

CONFIG = TwoTowerConfig(dim=16, columns=("genre",))
TRAINING = Training(epochs=40, batch_size=40, lr=0.01)


def fitted(data: Dataset, config: TwoTowerConfig = CONFIG, epochs: int = 40) -> TwoTower:
    model = TwoTower(config, TwoTower.spec_of(data))
    model.fit(data, replace(TRAINING, epochs=epochs))
    return model


def lift(scores: torch.Tensor, taste: torch.Tensor, topic: torch.Tensor) -> float:
    """How much higher items of one's taste score than others, in standard deviations."""
    mine = topic == taste.unsqueeze(1)
    return float((scores[mine].mean() - scores[~mine].mean()) / scores.std())


def numbers(names: pl.Series) -> torch.Tensor:
    return torch.tensor([int(name[1:]) % 4 for name in names])


def test_a_new_item_is_known_by_its_genre() -> None:
    data = planted().train
    names = data.items.ids[68:]
    known = Dataset.from_frame(data.frame().filter(~pl.col("item_id").is_in(names.implode())), data.item_table)
    model = fitted(known)
    assert model.spec.item_features is not None
    grown = model.with_items(data.encoded_items(model.spec.item_features).take(torch.arange(68, 80)))
    asked = known.queries(np.arange(known.n_users), model.spec)
    scores = grown.score(asked)
    torch.testing.assert_close(scores[:, :68], model.score(asked))
    taste, topic = numbers(known.users.ids), numbers(data.items.ids)
    assert lift(scores[:, 68:], taste, topic[68:]) > 1
    torch.testing.assert_close(grown.score(asked, torch.tensor([70, 3])), scores[:, [70, 3]])
    assert grown.item_vectors().shape == (80, 16)


def test_a_new_person_is_known_by_their_club_alone() -> None:
    data = planted().train
    model = fitted(data)
    assert "new_user" in model.answers
    assert model.spec.user_features is not None
    features = data.encoded_users(model.spec.user_features)
    asked = Queries(torch.full((160,), -1), Ragged.empty(160), None, features)
    assert bool(model.answerable(asked).all())
    assert lift(model.score(asked), numbers(data.users.ids), numbers(data.items.ids)) > 1
    assert not model.answerable(Queries(torch.full((2,), -1), Ragged.empty(2))).any()


def test_without_a_table_of_users_there_are_no_new_users() -> None:
    data = replace(planted().train, user_table=None)
    model = fitted(data, epochs=1)
    assert "new_user" not in model.answers


def test_ids_are_left_out_so_that_the_towers_work_without() -> None:
    """Asked by content alone, the towers know more where ids were left out while training."""
    data, found = planted().train, []
    asked = data.queries(np.arange(160), TwoTower.spec_of(data))
    strangers = Queries(torch.full((160,), -1), asked.history)
    for share in (0.0, 0.5):
        model = fitted(data, replace(CONFIG, id_dropout=share))
        assert model.spec.item_features is not None
        with torch.no_grad():
            bare = model.item_encoder(data.encoded_items(model.spec.item_features))
        torch.testing.assert_close(model.vector - bare, model.item.weight.detach())
        model.vector.copy_(bare)
        found.append(lift(model.score(strangers), numbers(data.users.ids), numbers(data.items.ids)))
    assert found[1] > 1
    assert found[1] > found[0]


def test_a_pool_teaches_what_the_whole_catalogue_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = planted().train
    monkeypatch.setattr("palate.models.content.two_tower.MAX_EXACT_ITEMS", 10)
    monkeypatch.setattr("palate.models.content.two_tower.MAX_SAMPLED_ITEMS", 40)
    model = fitted(data)
    assert model.max_candidates == 40
    asked = data.queries(np.arange(160), model.spec)
    assert lift(model.score(asked), numbers(data.users.ids), numbers(data.items.ids)) > 1


def test_texts_and_images_are_read_in_pools_only() -> None:
    spec = TwoTower.spec_of(planted().train)
    assert TwoTower(TwoTowerConfig(), spec).max_candidates == 384
    assert TwoTower(TwoTowerConfig(text="bag"), spec).max_candidates == 20_000


def test_what_is_missing_is_told() -> None:
    with pytest.raises(DataError, match="two-tower needs item_features, which this data lacks"):
        TwoTower(CONFIG, planted().train.spec)
    with pytest.raises(ConfigError, match="there is no such column"):
        TwoTower(TwoTowerConfig(columns=("director",)), TwoTower.spec_of(planted().train))
    with pytest.raises(ConfigError, match=r"id_dropout = 1.5 is out of range"):
        TwoTowerConfig(id_dropout=1.5)
