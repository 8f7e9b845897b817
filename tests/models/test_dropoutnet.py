"""dropoutnet: warm items are the warm model's, new ones are told by their content, on one scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.hybrid.dropoutnet import DropoutNet, DropoutNetConfig
from palate.models.mf.ials import IALS
from palate.models.mf.mf import MF
from palate.testing import planted

CONFIG = DropoutNetConfig(dim=8, columns=("genre",), dropout=0.1)
TRAINING = Training(epochs=40, batch_size=16, lr=0.01)
TRAININGS = {"ials": TRAINING, "mf": replace(TRAINING, epochs=15, batch_size=64)}


def known_and_all() -> tuple[Dataset, Dataset]:
    """The planted people without what they had of twelve items, and with it."""
    data = planted().train
    names = data.items.ids[68:]
    return Dataset.from_frame(data.frame().filter(~pl.col("item_id").is_in(names.implode())), data.item_table), data


def fitted(data: Dataset, config: DropoutNetConfig = CONFIG) -> DropoutNet:
    model = DropoutNet(config, DropoutNet.spec_of(data))
    model.fit(data, TRAININGS[config.warm])
    return model


@pytest.mark.parametrize("warm", ["ials", "mf"])
def test_known_items_are_the_warm_models(warm: Literal["ials", "mf"]) -> None:
    data = planted().train
    model = fitted(data, replace(CONFIG, warm=warm))
    alone = (IALS if warm == "ials" else MF)(model.config.warm_config(), data.spec)  # type: ignore[arg-type]
    alone.fit(data, TRAININGS[warm])
    known = data.queries(np.arange(160), data.spec)
    strangers = Queries(torch.full((160,), -1), known.history)
    for asked in (known, strangers):
        torch.testing.assert_close(model.score(asked), alone.score(asked), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.score(asked, torch.tensor([5, 2])), model.score(asked)[:, [5, 2]])


@pytest.mark.parametrize("warm", ["ials", "mf"])
def test_new_items_stand_where_their_content_puts_them(warm: Literal["ials", "mf"]) -> None:
    known, whole = known_and_all()
    model = fitted(known, replace(CONFIG, warm=warm))
    assert model.spec.item_features is not None
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(68, 80)))
    asked = known.queries(np.arange(known.n_users), model.spec)
    scores = grown.score(asked)
    torch.testing.assert_close(scores[:, :68], model.score(asked))
    taste = torch.tensor([int(name[1:]) % 4 for name in known.users.ids])
    mine = (torch.arange(68, 80) % 4) == taste.unsqueeze(1)
    new = scores[:, 68:]
    assert float((new[mine].mean() - new[~mine].mean()) / new.std()) > 1
    # One scale: what a new item of one's topic scores is what a known item of it scores, about.
    same = (torch.arange(68) % 4) == taste.unsqueeze(1)
    ratio = (new[mine].mean() - new[~mine].mean()) / (scores[:, :68][same].mean() - scores[:, :68][~same].mean())
    assert 0.6 < float(ratio) < 1.4
    stranger = Queries(torch.tensor([-1]), Ragged.of([[70, 3]]))
    assert bool(grown.score(stranger).isfinite().all())
    of_one = grown.score(Queries(torch.tensor([-1]), Ragged.of([[70]])))[0]
    assert float(of_one[torch.arange(80) % 4 == 70 % 4].mean()) > float(of_one.mean())


def test_the_tower_learns_and_its_held_out_items_choose() -> None:
    data = planted().train
    model = DropoutNet(CONFIG, DropoutNet.spec_of(data))
    records = model.fit(data, replace(TRAINING, patience=0))
    assert all("loss" in record.valid for record in records)
    assert records[-1].loss < 0.8 * records[0].loss
    best = min(record.valid["loss"] for record in records)
    assert best < 0.9 * records[0].valid["loss"]


def test_boost_scales_new_items_only() -> None:
    known, whole = known_and_all()
    scores = []
    for boost in (1.0, 2.0):
        model = fitted(known, replace(CONFIG, boost=boost))
        assert model.spec.item_features is not None
        grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(68, 80)))
        scores.append(grown.score(known.queries(np.arange(known.n_users), model.spec)))
    torch.testing.assert_close(scores[0][:, :68], scores[1][:, :68])
    torch.testing.assert_close(scores[1][:, 68:], 2 * scores[0][:, 68:])


def test_what_is_missing_is_told() -> None:
    with pytest.raises(DataError, match="dropoutnet needs item_features"):
        DropoutNet(CONFIG, planted().train.spec)
    with pytest.raises(ConfigError, match=r"warm = 'ease' is not one of 'ials', 'mf'"):
        DropoutNetConfig(warm="ease")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"held_out = 0 is out of range"):
        DropoutNetConfig(held_out=0)
