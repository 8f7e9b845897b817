"""What all models that read content through `with_items` promise: new items go to whom they suit, by what they are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.features.encode import encode, learn
from palate.data.features.schema import nothing_known
from palate.evaluation.validate import Validator
from palate.models.base import GradientModel, Model
from palate.models.content.cnn import ImageCNNConfig, ImageRecommender, TextCNNConfig, TextRecommender
from palate.models.content.content_ials import ContentIALS, ContentIALSConfig
from palate.models.content.content_knn import ContentKNN, ContentKNNConfig
from palate.models.content.convmf import ConvMF, ConvMFConfig
from palate.models.content.deepfm import DeepFM, DeepFMConfig
from palate.models.content.two_tower import TwoTower, TwoTowerConfig
from palate.models.content.vbpr import VBPR, VBPRConfig
from palate.models.hybrid.hybrid import Hybrid, HybridConfig
from palate.testing import planted
from pictures import picture

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


@cache
def validated() -> tuple[Dataset, Dataset]:
    """A training and a validation part with a plot, a poster and a ready vector for each item."""
    whole = planted().train
    assert whole.item_table is not None
    numbers = [int(name[1:]) for name in whole.item_table["item_id"]]
    table = whole.item_table.with_columns(
        pl.Series("plot", [f"words of {number % 4} and more about it" for number in numbers]),
        pl.Series("poster", [picture(number % 4, number) for number in numbers], dtype=pl.Binary),
        pl.Series("ready", [[number % 4 / 4, number / 80, 1.0] for number in numbers]),
    )
    kinds = {"plot": "text", "poster": "image", "ready": "vector"}
    data = Dataset.from_frame(whole.frame(), table, whole.user_table, rating_scale=(1.0, 5.0), item_kinds=kinds)
    parts = data.split("random", valid=0.2, test=0.01)
    return parts.train, parts.valid


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr("palate.data.features.encode.IMAGE_SIZE", (3, 8, 8))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path_factory.getbasetemp() / "content-models-cache"))


TRAINED: dict[str, tuple[type[GradientModel], object]] = {
    "text-cnn": (TextRecommender, TextCNNConfig(dim=8)),
    "text-cnn-sampled": (TextRecommender, TextCNNConfig(dim=8, text="bag", pool=40)),
    "image-cnn": (ImageRecommender, ImageCNNConfig(dim=8)),
    "two-tower": (TwoTower, TwoTowerConfig(dim=8)),
    "two-tower-exact": (TwoTower, TwoTowerConfig(dim=8, text="bag", columns=("genre", "plot"))),
    "vbpr": (VBPR, VBPRConfig(dim=8, content_dim=4, items_per_step=40)),
    "vbpr-frozen": (VBPR, VBPRConfig(dim=8, content_dim=4, content="frozen")),
    "deepfm": (DeepFM, DeepFMConfig(dim=4, layers=(8,))),
    "deepfm-mse": (DeepFM, DeepFMConfig(dim=4, layers=(8,), loss="mse", cross="wide")),
    "convmf": (ConvMF, ConvMFConfig(dim=4, content_epochs=3)),
    "convmf-rounds": (ConvMF, ConvMFConfig(dim=4, rounds=3, content_epochs=2)),
}


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("name", TRAINED)
def test_the_catalogue_is_encoded_once_an_epoch_and_once_after_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in rows that pass an encoder of items in eval mode: validation reads what `refresh` has encoded."""
    train, valid = validated()
    kind, config = TRAINED[name]
    model = kind(config, kind.spec_of(train))
    rows = 0

    def count(encoder: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal rows
        rows += 0 if encoder.training else len(inputs[-1])

    encoders = [model.item] if isinstance(model, DeepFM) else [getattr(model, "item_encoder", None) or model.encoder]
    assert isinstance(encoders[0], nn.Module)
    encoders[0].register_forward_hook(count)
    model.fit(train, Training(epochs=3, batch_size=64, patience=0), Validator(valid, model))
    assert 0 < rows <= (3 + 1) * train.n_items


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("name", TRAINED)
def test_both_loss_curves_show_the_same_quantity(name: str) -> None:
    """On rows of the training data the validation loss is near the training loss, and below that of the first epoch."""
    train, _ = validated()
    kind, config = TRAINED[name]
    calm = {name: 0.0 for name in ("dropout", "id_dropout") if hasattr(config, name)}  # without noise in training
    model = kind(replace(config, **calm), kind.spec_of(train))  # type: ignore[type-var]
    assert model.loss_name != "loss"
    # Of each user's rows, all but two are the history and two are to be found, as a step divides them too.
    later = np.zeros(len(train), dtype=bool)
    for start, stop in pairwise(train.offsets):
        later[np.random.default_rng(int(start)).permutation(np.arange(start, stop))[:2]] = True
    part = replace(train.take(later), history=train.take(~later))
    records = model.fit(train, Training(epochs=6, batch_size=64, lr=0.02))
    measured = Validator(part, model, "loss")(model)["loss"]
    first, last = records[0].loss, records[-1].loss
    assert abs(measured - last) < 0.2 * last
    assert measured < first


@pytest.mark.usefixtures("small_pictures")
@pytest.mark.parametrize("name", ["text-cnn-sampled", "two-tower-exact"])
def test_a_weight_of_two_is_the_row_given_twice(name: str) -> None:
    train, _ = validated()
    kind, config = TRAINED[name]
    frame = train.frame().drop("timestamp")
    heavy = pl.Series("weight", np.where(np.arange(len(frame)) % 3 == 0, 2.0, 1.0))
    states = []
    for rows in (frame.with_columns(heavy), frame.filter(heavy == 2).vstack(frame)):
        data = Dataset.from_frame(rows, train.item_table, item_kinds=dict(train.item_kinds), rating_scale=(1.0, 5.0))
        model = kind(config, kind.spec_of(data))
        model.fit(data, Training(epochs=2, batch_size=64))
        states.append(model.state_dict())
    plain = kind(config, kind.spec_of(train))
    plain.fit(train, Training(epochs=2, batch_size=64))
    assert not torch.equal(plain.state_dict()[next(reversed(states[0]))], states[0][next(reversed(states[0]))])
    for key, tensor in states[0].items():
        if not key.startswith("fallback"):
            torch.testing.assert_close(tensor, states[1][key], msg=lambda how, key=key: f"{key}: {how}")


def test_a_vector_far_beyond_those_of_training_is_unknown() -> None:
    """A sentinel in a new item's vector neither spoils the scores of other items nor stays without a note."""
    ready = pl.DataFrame(
        {"item_id": [f"i{n:02}" for n in range(80)], "v": [[n / 80, n % 7 / 7, 1.0] for n in range(80)]}
    )
    data = Dataset.from_frame(planted().train.frame(), ready)
    features = data.feature_spec.item_features
    assert features is not None
    new = pl.DataFrame({"v": [[3.4e38, 0.0, 0.0], [2e6, 0.0, 0.0], [0.1, 0.2, 0.3], [float("nan"), 1.0, 1.0]]})
    encoded = encode(new, features)
    assert encoded.vectors["v"].isnan().all(1).tolist() == [True, True, False, True]
    note = "v: 2 vectors are longer than 1.24e+06, which is far beyond those of training, and count as unknown"
    assert note in encoded.notes
    for kind, config in ((TwoTower, TwoTowerConfig(dim=4)), (ContentKNN, ContentKNNConfig())):
        model = kind(config, kind.spec_of(data))
        model.fit(data, Training(epochs=1))
        asked = data.queries(np.arange(9), model.spec)
        larger = model.with_items(encoded)
        scores = larger.score(asked)
        assert bool(scores.isfinite().all())
        torch.testing.assert_close(scores[:, :80], model.score(asked))
        torch.testing.assert_close(scores[:, 80], scores[:, 83])
    # Sentinels in the training table do not move the scale that others are measured by.
    spoilt = ready.with_columns(v=pl.Series([[3.4e38] * 3, *ready["v"][1:].to_list()]))
    assert learn(spoilt, {"v": "vector"}).columns[0].std[0] == pytest.approx(features.columns[0].std[0], rel=0.01)
