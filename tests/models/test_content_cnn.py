"""text-cnn and image-cnn learn from words and pixels, know nothing else, and answer new items by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from palate.config import Training
from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.errors import ConfigError, DataError
from palate.models.base import Model
from palate.models.content.cnn import ImageCNNConfig, ImageRecommender, TextCNNConfig, TextRecommender
from palate.models.content.encoders import encode_all
from palate.testing import planted
from pictures import pictured

WORDS = ("funny jolly silly laugh", "tears family sorrow war", "ghost blood scream night", "horse sheriff desert gun")
TRAINING = Training(epochs=12, batch_size=32, lr=0.01)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr("palate.data.features.encode.IMAGE_SIZE", (3, 8, 8))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def worded(data: Dataset, seed: int | None = None) -> Dataset:
    """With a plot of the topic's words among others; `seed` shuffles the plots, so that they say nothing."""
    assert data.item_table is not None
    numbers = np.array([int(name[1:]) for name in data.item_table["item_id"]])
    told = numbers if seed is None else np.random.default_rng(seed).permutation(80)[numbers]
    plots = []
    for number in told:
        rng = np.random.default_rng(int(number))
        noise = [f"word{n}" for n in rng.integers(40, size=8)]
        plots.append(" ".join(rng.permutation([*noise, *rng.choice(WORDS[number % 4].split(), 2)])))
    table = data.item_table.select("item_id", pl.Series("plot", plots))
    return replace(data, item_table=table, item_kinds={"plot": "text"})


def without(data: Dataset, last: int) -> tuple[Dataset, Dataset]:
    """The data without the rows of its last items, and with them: those the model has never seen."""
    frame = data.frame()
    names = data.items.ids[data.n_items - last :]
    known = frame.filter(~pl.col("item_id").is_in(names.implode()))
    return Dataset.from_frame(known, data.item_table, item_kinds=dict(data.item_kinds)), data


def lift(model: Model, known: Dataset, whole: Dataset) -> float:
    """How much higher new items of a person's taste score than other new items, in standard deviations."""
    assert model.spec.item_features is not None
    more = torch.arange(known.n_items, whole.n_items)
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(more))
    scores = grown.score(known.queries(np.arange(known.n_users), model.spec))[:, known.n_items :]
    taste = torch.tensor([int(name[1:]) % 4 for name in known.users.ids])
    topic = torch.tensor([int(name[1:]) % 4 for name in whole.items.ids])[known.n_items :]
    mine = topic == taste.unsqueeze(1)
    return float((scores[mine].mean() - scores[~mine].mean()) / scores.std())


@pytest.mark.parametrize("text", ["cnn", "bag"])
def test_words_are_read(text: Any) -> None:
    found = []
    for seed in (None, 1, 2, 3):
        known, whole = without(worded(planted().train, seed), 16)
        model = TextRecommender(TextCNNConfig(dim=16, text=text), TextRecommender.spec_of(known))
        model.fit(known, TRAINING)
        found.append(lift(model, known, whole))
    assert found[0] > 0.8
    # Sixteen shuffled plots may suit by chance; over several shuffles they do not.
    assert abs(np.mean(found[1:])) < 0.3


def test_pixels_are_read() -> None:
    found = []
    for shuffled in (False, True):
        known, whole = without(pictured(shuffled).train, 16)
        model = ImageRecommender(ImageCNNConfig(dim=16), ImageRecommender.spec_of(known))
        model.fit(known, replace(TRAINING, epochs=8))
        found.append(lift(model, known, whole))
    assert found[0] > 0.8
    assert abs(found[1]) < 0.4


def test_items_of_today_are_told_by_their_words() -> None:
    known, whole = without(worded(planted().train), 12)
    model = TextRecommender(TextCNNConfig(dim=16), TextRecommender.spec_of(known))
    model.fit(known, TRAINING)
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(68, 80)))  # type: ignore[arg-type]
    assert grown.spec.n_items == 80
    assert grown.spec.new_items == 12
    assert model.spec.n_items == 68
    history = known.histories
    scores = grown.score(Queries(torch.arange(160), history))
    assert torch.equal(scores[:, :68], model.score(Queries(torch.arange(160), history)))
    assert lift(model, known, whole) > 0.8
    topic = torch.arange(68, 80) % 4
    vectors = torch.nn.functional.normalize(grown.item_vectors(), dim=1)
    alike = vectors[68:] @ vectors[:68].T
    same = topic.unsqueeze(1) == torch.arange(68) % 4
    assert float(alike[same].mean()) > float(alike[~same].mean()) + 0.1
    of_new = grown.score(Queries(torch.tensor([-1]), Ragged.of([[70]])))[0]
    assert float(of_new[torch.arange(80) % 4 == 70 % 4].mean()) > float(of_new.mean())


def test_what_is_popular_is_not_learned_by_heart() -> None:
    """A word of the popular films says nothing of a new one: the bias, not the encoder, carries popularity."""
    data = worded(planted().train)
    assert data.item_table is not None
    number = np.array([int(name[1:]) for name in data.item_table["item_id"]])
    famous = number // 4 % 2 == 0
    told = pl.Series("told", [" premiere" if each else "" for each in famous])
    table = data.item_table.with_columns(plot=pl.col("plot") + told)
    frame = data.frame()
    drawn = pl.Series("drawn", np.random.default_rng(0).random(len(frame)) < 0.3)
    kept = frame.filter(pl.col("item_id").is_in(table["item_id"].filter(pl.Series(famous)).implode()) | drawn)
    known, whole = without(Dataset.from_frame(kept, table, item_kinds={"plot": "text"}), 16)
    model = TextRecommender(TextCNNConfig(dim=16), TextRecommender.spec_of(known))
    model.fit(known, TRAINING)
    grown = model.with_items(
        whole.encoded_items(model.spec.item_features).take(torch.arange(known.n_items, whole.n_items))
    )  # type: ignore[arg-type]
    scores = grown.score(known.queries(np.arange(known.n_users), model.spec))[:, known.n_items :]
    named = torch.tensor([int(name[1:]) // 4 % 2 == 0 for name in whole.items.ids])[known.n_items :]
    assert lift(model, known, whole) > 1
    difference = float((scores[:, named].mean() - scores[:, ~named].mean()) / scores.std())
    assert abs(difference) < 0.3
    bias = {bool(int(name[1:]) // 4 % 2 == 0): float(model.bias[place]) for place, name in enumerate(known.items.ids)}
    assert bias[True] > 0 > bias[False]
    assert grown.bias[known.n_items :].tolist() == [0.0] * 16  # type: ignore[union-attr]


def test_content_makes_no_item_everybodys_and_none_more_divisive_than_usual() -> None:
    known, whole = without(worded(planted().train), 16)
    model = TextRecommender(TextCNNConfig(dim=16), TextRecommender.spec_of(known))
    model.fit(known, TRAINING)
    grown = model.with_items(whole.encoded_items(model.spec.item_features).take(torch.arange(64, 80)))  # type: ignore[arg-type]
    scores = grown.score(Queries(torch.arange(160), known.histories))
    # Over training's people an item's mean is what was counted of it, and nothing for one of today.
    torch.testing.assert_close(scores.mean(0), grown.bias, rtol=0, atol=1e-4)  # type: ignore[arg-type]
    spread = scores.std(0, correction=0)
    usual = float(model.spread / model.config.temperature)
    assert float(spread.max()) < usual * 1.001
    held = spread > usual * 0.999
    assert 0 < int(held.sum()) < 80
    torch.testing.assert_close(grown.scale[~held], torch.full((int((~held).sum()),), 10.0))  # type: ignore[index]


def test_no_item_and_no_user_has_parameters_of_its_own() -> None:
    data = worded(planted().train)
    model = TextRecommender(TextCNNConfig(dim=16), TextRecommender.spec_of(data))
    words = len(model.spec.item_features.columns[0].values)  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert not {80, 160} & set(parameter.shape) or words == 80, name


def test_the_best_epochs_vectors_are_kept() -> None:
    """The item vectors that a model answers with are those of its weights, also where an earlier epoch was best."""
    data = worded(planted().train)
    model = TextRecommender(TextCNNConfig(dim=8), TextRecommender.spec_of(data))

    class Judge:
        metric = "ndcg@10"
        higher_is_better = True

        def __init__(self) -> None:
            self.values = iter((0.1, 0.5, 0.2, 0.1))

        def __call__(self, model: Model) -> dict[str, float]:
            return {"ndcg@10": next(self.values)}

    records = model.fit(data, replace(TRAINING, epochs=4, patience=0), Judge())
    assert [record.best for record in records] == [True, True, False, False]
    encoded = data.encoded_items(model.spec.item_features)  # type: ignore[arg-type]
    torch.testing.assert_close(model.item, encode_all(model.encoder, encoded))


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    data = pictured().train
    spec = ImageRecommender.spec_of(data)
    config, training = ImageCNNConfig(dim=8, pool=32), replace(TRAINING, epochs=3, batch_size=64)
    straight = ImageRecommender(config, spec)
    straight.fit(data, training)

    class Killed(Exception):
        pass

    def kill(epoch: int, rows: int, total: int, loss: float) -> None:
        if epoch == 2:
            raise Killed

    halted = ImageRecommender(config, spec)
    with pytest.raises(Killed):
        halted.fit(data, training, checkpoint=tmp_path, every=0.0, on_step=kill)
    resumed = ImageRecommender(config, spec)
    resumed.fit(data, training, checkpoint=tmp_path)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_pre_trained_word_vectors_are_where_training_starts(tmp_path: Path) -> None:
    data = worded(planted().train)
    file = tmp_path / "words.txt"
    file.write_text("ghost " + " ".join(["0.25"] * 64) + "\n")
    model = TextRecommender(TextCNNConfig(dim=8, vectors=str(file)), TextRecommender.spec_of(data))
    model.init_from_data(data)
    column = model.encoder.columns[0].column
    row = column.values.index("ghost") + 2
    assert bool((model.encoder.columns[0].encoder.table.weight[row] == 0.25).all())


def test_data_without_words_or_pictures_is_refused() -> None:
    plain = replace(planted().train, item_table=None)
    with pytest.raises(DataError, match="text-cnn needs item_text"):
        TextRecommender(TextCNNConfig(), TextRecommender.spec_of(plain))
    with pytest.raises(DataError, match="image-cnn needs item_image"):
        ImageRecommender(ImageCNNConfig(), ImageRecommender.spec_of(planted().train))
    data = worded(planted().train)
    with pytest.raises(ConfigError, match=r"columns = genre: there is no such text column; there are: plot"):
        TextRecommender(TextCNNConfig(columns=("genre",)), TextRecommender.spec_of(data))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature = 0 is out of range"):
        TextCNNConfig(temperature=0)
    with pytest.raises(ConfigError, match=r"pool = 1 is out of range"):
        ImageCNNConfig(pool=1)
