"""What all models that read content through `with_items` promise: new items go to whom they suit, by what they are."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.encoded import nothing_known
from palate.models.base import Model
from palate.models.content_ials import ContentIALS, ContentIALSConfig
from palate.models.content_knn import ContentKNN, ContentKNNConfig
from palate.models.convmf import ConvMF, ConvMFConfig
from palate.models.deepfm import DeepFM, DeepFMConfig
from palate.models.hybrid import Hybrid, HybridConfig
from palate.models.vbpr import VBPR, VBPRConfig
from palate.testing import planted

KNOWN = 68
"""Items that training sees; the planted world's other twelve are new."""
ADAGRAD = Training(epochs=10, batch_size=256, lr=0.05)
QUICK = Training(epochs=8, batch_size=256, lr=0.03)
MODELS: dict[str, tuple[type[Model], object, Training]] = {
    "content-knn": (ContentKNN, ContentKNNConfig(), Training()),
    "content-knn-neighbours": (ContentKNN, ContentKNNConfig(profile="neighbours", k=20), Training()),
    "content-ials": (ContentIALS, ContentIALSConfig(dim=8), Training()),
    "vbpr": (VBPR, VBPRConfig(dim=8, content_dim=8, id_dropout=0.3), QUICK),
    "vbpr-frozen": (VBPR, VBPRConfig(dim=8, content_dim=8, content="frozen", id_dropout=0.3), QUICK),
    "convmf": (ConvMF, ConvMFConfig(dim=8, init=0.1, reg=0.4, text="bag", content_lr=0.01), ADAGRAD),
    "deepfm": (DeepFM, DeepFMConfig(dim=8, layers=(16,), id_dropout=0.3), QUICK),
    "deepfm-cross": (DeepFM, DeepFMConfig(dim=8, layers=(16,), cross="cross", id_dropout=0.3), QUICK),
    "hybrid": (Hybrid, HybridConfig(warm="ease"), Training()),
}


@cache
def world(shuffled: bool = False) -> tuple[Dataset, Dataset]:
    """The planted people without what they had of twelve items, and with it.

    Args:
        shuffled: Whether each item has another's title and genre.
    """
    whole = planted().train
    table = whole.item_table
    assert table is not None
    if shuffled:
        order = np.random.default_rng(1).permutation(len(table))
        table = pl.concat([table.select("item_id"), table.drop("item_id")[order]], how="horizontal")
        whole = Dataset.from_frame(whole.frame(), table, whole.user_table, rating_scale=(1.0, 5.0))
    new = whole.items.ids[KNOWN:]
    rows = whole.frame().filter(~pl.col("item_id").is_in(new.implode()))
    return Dataset.from_frame(rows, table, whole.user_table, rating_scale=(1.0, 5.0)), whole


@cache
def grown(name: str, shuffled: bool = False) -> tuple[Model, Model]:
    """The fitted model, and with the new items."""
    known, whole = world(shuffled)
    kind, config, training = MODELS[name]
    model = kind(config, kind.spec_of(known))
    model.fit(known, training)
    assert model.spec.item_features is not None
    return model, model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(KNOWN, 80)))


def suits(name: str, shuffled: bool = False) -> float:
    """How likely a new item of somebody's taste scores above one of another: 0.5 for who knows nothing."""
    known, _ = world(shuffled)
    _, model = grown(name, shuffled)
    scores = model.score(known.queries(np.arange(known.n_users), model.spec))[:, KNOWN:]
    taste = torch.tensor([int(user[1:]) % 4 for user in known.users.ids])
    mine = taste.unsqueeze(1) == torch.arange(KNOWN, 80) % 4
    above = [(s[m].unsqueeze(1) > s[~m]).float().mean() for s, m in zip(scores, mine, strict=True)]
    return float(torch.stack(above).mean())


@pytest.mark.parametrize("name", MODELS)
def test_new_items_go_to_whom_they_suit_and_shuffled_content_helps_nobody(name: str) -> None:
    assert suits(name) > 0.85
    assert suits(name, shuffled=True) < 0.7


@pytest.mark.parametrize("name", MODELS)
def test_known_items_keep_their_scores_and_some_items_are_scored_as_all(name: str) -> None:
    known, _ = world()
    model, larger = grown(name)
    asked = known.queries(np.arange(12), model.spec)
    scores = larger.score(asked)
    assert scores.shape == (12, 80)
    torch.testing.assert_close(scores[:, :KNOWN], model.score(asked), rtol=1e-4, atol=1e-5)
    some = torch.tensor([70, 3, 79, 0])
    torch.testing.assert_close(larger.score(asked, some), scores[:, some], rtol=1e-4, atol=1e-5)
    vectors = larger.item_vectors()
    assert vectors is None or len(vectors) == 80


@pytest.mark.parametrize("name", MODELS)
def test_a_grown_model_is_its_config_spec_and_state(name: str) -> None:
    known, _ = world()
    _, larger = grown(name)
    copy = type(larger)(larger.config, larger.spec)
    copy.load_state_dict({key: tensor.clone() for key, tensor in larger.state_dict().items()})
    copy.eval()
    asked = known.queries(np.arange(12), larger.spec)
    assert torch.equal(copy.score(asked), larger.score(asked))


@pytest.mark.parametrize("name", [name for name in MODELS if "history" in MODELS[name][0].answers])
def test_a_new_item_is_a_history_too(name: str) -> None:
    _, larger = grown(name)
    _, whole = world()
    comedy, drama = (whole.queries(np.arange(2), larger.spec) for _ in range(2))
    user = torch.full((2,), -1)
    comedy = type(comedy)(user, type(comedy.history).of([[72], [76, 68]]))
    drama = type(drama)(user, type(drama.history).of([[73], [77, 69]]))
    topic = torch.arange(80) % 4
    for asked, mine in ((comedy, 0), (drama, 1)):
        scores = larger.score(asked)
        assert bool((scores[:, topic == mine].mean(1) > scores[:, topic != mine].mean(1)).all())


@pytest.mark.parametrize("name", MODELS)
def test_an_item_of_which_nothing_is_known_gets_a_finite_score(name: str) -> None:

    known, _ = world()
    model, _ = grown(name)
    assert model.spec.item_features is not None
    larger = model.with_items(nothing_known(model.spec.item_features, 2))
    scores = larger.score(known.queries(np.arange(5), larger.spec))
    assert bool(scores.isfinite().all())
    torch.testing.assert_close(scores[:, -1], scores[:, -2])
