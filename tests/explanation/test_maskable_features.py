"""Features, words and image regions as players: a model whose sums are known, and the shipped content models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset, Queries, Spec
from palate.data.features.schema import FeatureBatch
from palate.data.ragged import Ragged
from palate.errors import CannotAnswer
from palate.explanation import plots
from palate.explanation.explain import explain
from palate.explanation.explanation import Explanation, Player
from palate.explanation.maskable_features import blur, region_boxes, unambiguous, word
from palate.explanation.players import compared_items, game
from palate.models import MODELS
from palate.models.base import Model
from palate.models.content.encoders_image import ImageCNN
from palate.training.loop import Epoch, TrainRun

WORDS = ("heist casino robber", "ghost castle curse")
SIZE = (3, 32, 24)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr("palate.data.features.encode.IMAGE_SIZE", SIZE)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def poster(number: int) -> bytes:
    """Noise with a striped patch in one of four corners: stripes go down for even numbers, across for odd ones.

    A blur takes the stripes and leaves a grey of the same lightness.
    """
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 130, (SIZE[1], SIZE[2], 3), dtype=np.uint8)
    top, left = corner(number)
    down, across = np.mgrid[:10, :8]
    stripes = np.where((across if number % 2 == 0 else down) // 2 % 2 == 0, 220, 0)
    pixels[top : top + 10, left : left + 8] = stripes[:, :, None]
    out = BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def corner(number: int) -> tuple[int, int]:
    return (1, 21)[number // 2 % 2], (1, 15)[number // 4 % 2]


@cache
def films() -> Dataset:
    """Sixty films of two genres, told by plot and poster; 120 people who have twelve films of their genre."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        mine = np.arange(user % 2, 60, 2)
        rows += [(f"u{user}", f"f{i:02}", float(rng.integers(3, 6))) for i in rng.choice(mine, 12, replace=False)]
    plot = [
        " ".join(rng.permutation([*WORDS[i % 2].split(), *(f"filler{n}" for n in rng.integers(12, size=5))]))
        for i in range(60)
    ]
    table = pl.DataFrame(
        {
            "item_id": [f"f{i:02}" for i in range(60)],
            "title": [f"Film {i}" for i in range(60)],
            "year": [1950.0 + i for i in range(60)],
            "genre": [("crime", "horror")[i % 2] for i in range(60)],
            "cast": [[f"actor{i % 5}", f"actor{5 + i % 3}"] for i in range(60)],
            "plot": plot,
            "poster": [None if i == 7 else poster(i) for i in range(60)],
        }
    )
    people = pl.DataFrame({"user_id": [f"u{u}" for u in range(120)], "age": [20.0 + u for u in range(120)]})
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    kinds = {
        "title": "ignore",
        "plot": "text",
        "genre": "category",
        "cast": "tags",
        "poster": "image",
        "year": "number",
    }
    return Dataset.from_frame(
        frame, table, people, rating_scale=(1.0, 5.0), item_kinds=kinds, user_kinds={"age": "number"}
    )


@dataclass(frozen=True, kw_only=True)
class SumConfig:
    """None."""


class Sum(Model):
    """3 year + [genre] + 0.5 per actor + 0.1 per known word + red at the top left; of items of even index besides 2 age
    + 0.2 per history item.
    """

    Config = SumConfig
    needs = frozenset({"interactions", "item_features", "user_features"})
    answers = frozenset({"known_user", "history", "new_item", "new_user"})
    worth: Tensor
    taste: Tensor

    def __init__(self, config: SumConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.register_buffer("worth", torch.zeros(spec.n_items))
        self.register_buffer("taste", 1.0 - torch.arange(spec.n_items) % 2)

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        assert self.spec.item_features is not None
        worth = self.feature_worth(data.encoded_items(self.spec.item_features))
        self.worth = worth + 0.01 * torch.arange(len(worth))  # what only the id tells
        return []

    @staticmethod
    def feature_worth(items: FeatureBatch) -> Tensor:
        """What features are worth."""
        poster = items.images["poster"]
        red = torch.zeros(len(items))
        there = poster.row >= 0
        pixels = torch.from_numpy(np.array(poster.pixels[poster.row[there].numpy()])).float()
        red[there] = pixels[:, 0, :5, :4].mean((1, 2)) / 100
        words = torch.zeros(len(items)).index_add_(
            0, items.text["plot"].row_of_value, (items.text["plot"].values > 0).float()
        )
        return (
            3 * items.numbers[:, 0]
            + (items.categories[:, 0] > 0)
            + 0.5 * items.tags["cast"].lengths
            + 0.1 * words
            + red
        )

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        worth = self.feature_worth(features)
        return {"worth": worth, "taste": torch.zeros(len(worth))}

    def _score(self, queries: Queries) -> Tensor:
        age = 0 if queries.features is None else 2 * queries.features.numbers[:, :1]
        return self.worth + self.taste * (age + 0.2 * queries.history.lengths.unsqueeze(1))


@cache
def summing() -> Sum:
    model = Sum(SumConfig(), Sum.spec_of(films()))
    model.fit(films())
    return model


def ask(user: int = 3, item: int = 4, known: bool = True) -> tuple[Queries, int]:
    model = summing()
    queries = films().queries(np.array([user]), model.spec)
    index = int(films().items.index([f"f{item:02}"])[0])
    return (queries if known else Queries(torch.tensor([-1]), queries.history, None, queries.features)), index


@pytest.mark.parametrize("method", ["shap", "occlusion", "lime"])
def test_a_sum_is_taken_apart_as_it_was_put_together(method: str) -> None:
    queries, item = ask()
    told = explain(summing(), films(), queries, item, method)
    value = {c.key if c.kind in ("history", "feature") else c.key[2]: c.value for c in told.of()}
    spec = summing().spec
    assert spec.item_features is not None
    items = films().encoded_items(spec.item_features)
    assert queries.features is not None
    close = {"abs": 0.1 if method == "lime" else 1e-4}
    assert value["year"] == pytest.approx(3 * float(items.numbers[item, 0]), **close)
    assert value["genre"] == pytest.approx(1, **close)
    assert value["cast"] == pytest.approx(1, **close)
    assert value["heist"] == pytest.approx(0.1, **close)
    # What moves other items too counts less what it moves the average item by.
    share = 1 - float(summing().taste[compared_items(60, queries.history.values)].mean())
    age = 2 * float(queries.features.numbers[0, 0])
    assert value["age"] == pytest.approx(share * age, **close)
    history = [c.value for c in told.of("history")]
    assert history == pytest.approx([share * 0.2] * 12, **close)
    assert told.score == pytest.approx(float(summing().score(queries)[0, item]))
    if method != "lime":
        assert abs(told.residual) < 1e-4, "what the id is worth stays in the base"
        assert told.base == pytest.approx(0.01 * item + (1 - share) * (age + 12 * 0.2), abs=1e-4)
    labels = {c.label for c in told.of("feature")}
    assert {
        "its year 1954.0",
        "its genre crime",
        f"your age {20.0 + int(str(films().users.ids[3])[1:])}",
        "its poster",
    } <= labels


def test_an_unknown_column_is_no_player_and_a_text_can_be_one_feature() -> None:
    queries, item = ask(item=7)
    keys = {p.key for p in game(summing(), films(), queries, item, ["feature"]).players}
    assert keys == {"year", "genre", "cast", "plot", "age"}, "the poster of film 7 is missing"
    with pytest.raises(CannotAnswer, match="item 'f07' has no image that Sum reads"):
        game(summing(), films(), Queries(queries.user, queries.history), item, ["region"])


def test_regions_are_blurred() -> None:
    queries, item = ask(item=0)
    told = explain(summing(), films(), queries, item, "occlusion", kinds=["region"])
    size = {c.key[1]: abs(c.value) for c in told.of("region")}
    assert len(size) == 36
    inside = {box for box in size if box[0] < 5 and box[1] < 4}
    assert all(size[box] < 1e-5 for box in set(size) - inside)
    assert max(size, key=lambda box: size[box]) in inside


def test_grid_and_blur() -> None:
    boxes = list(region_boxes(32, 24))
    cover = np.zeros((32, 24))
    for top, left, bottom, right in boxes:
        cover[top:bottom, left:right] += 1
    assert (cover == 1).all()
    assert len(list(region_boxes(3, 2))) == 6
    image = torch.rand(3, 32, 24) * 255
    soft = blur(image)
    assert soft.shape == image.shape
    assert float(soft.std()) < 0.3 * float(image.std())
    assert float(soft.mean()) == pytest.approx(float(image.mean()), rel=0.05)


def test_history_of_a_content_model_takes_no_part_of_the_item() -> None:
    queries, item = ask()
    only = game(summing(), films(), queries, item, ["history"])
    assert {p.kind for p in only.players} == {"history"}
    masks = torch.tensor([[True] * 12, [False] * 12])
    share = 1 - float(summing().taste[only.compared_C].mean())
    assert only(masks).diff().item() == pytest.approx(-2.4 * share, abs=1e-4)
    all_of_them = only.scores(masks)
    assert all_of_them.shape == (2, 60)
    assert torch.allclose(all_of_them[:, item] - all_of_them[:, only.compared_C].mean(1), only(masks), atol=1e-5)
    whole = game(summing(), films(), queries, item)
    mixed = torch.rand(9, len(whole.players), generator=torch.Generator().manual_seed(0)) < 0.5
    average = whole.scores(mixed, torch.cat([torch.tensor([item]), whole.compared_C]))[:, 1:].mean(1)
    assert torch.allclose(whole.scores(mixed)[:, item], whole(mixed) + average, atol=1e-4)
    assert torch.allclose(whole.scores(mixed, torch.tensor([1, item, 2]))[:, 1], whole(mixed) + average, atol=1e-4)


@cache
def trained(name: str, epochs: int = 8, **config: Any) -> Model:
    kind = MODELS[name]
    model = kind(kind.Config(**config), kind.spec_of(films()))
    model.fit(films(), Training(epochs=epochs, batch_size=16, lr=0.01))
    return model


def of_films(model: Model, kinds: Any, method: str | None = None, count: int = 12) -> list[tuple[int, Explanation]]:
    """People and a film of their genre that they have not seen, explained."""
    found = []
    for user in range(count):
        queries = films().queries(np.array([user]), model.spec)
        seen = set(films().items.ids[queries.history.values.numpy()])
        person = int(str(films().users.ids[user])[1:])
        film = next(i for i in range(person % 2 + 12, 60, 2) if f"f{i:02}" not in seen and i != 7)
        index = int(films().items.index([f"f{film:02}"])[0])
        found.append((film, explain(model, films(), queries, index, method, 200, kinds=kinds)))
    return found


@pytest.mark.parametrize(("name", "config"), [("content-knn", {}), ("text-cnn", {"dim": 16, "text": "bag"})])
def test_planted_words_are_found(name: str, config: dict[str, Any]) -> None:
    hits = []
    for film, told in of_films(trained(name, **config), ["word"], "shap"):
        assert abs(told.residual) < 1e-3
        words = [c.label for c in told.of("word")]
        hits += [w in WORDS[film % 2].split() for w in words[:2]]
    assert np.mean(hits) >= 0.85


def test_planted_pixels_are_found() -> None:
    hits = []
    for film, told in of_films(trained("image-cnn", 4, dim=16), ["region"], "occlusion"):
        top, left = corner(film)
        best = told.of("region")[0].key[1]
        hits.append(best[2] > top and best[0] < top + 10 and best[3] > left and best[1] < left + 8)
    assert np.mean(hits) >= 0.9


def test_grad_cam_is_the_slope_by_the_mean_map_times_the_map() -> None:
    model = trained("image-cnn", 4, dim=16)
    net: Any = model
    # The scale of a score has a kink where an item divides users as much as is usual; this item is far from it.
    item = int(torch.argmin(net._deviation(net.item)))
    queries = films().queries(np.array([2]), model.spec)
    told = explain(model, films(), queries, item, "grad-cam")
    assert model.spec.item_features is not None
    row = films().encoded_items(model.spec.item_features).take(torch.tensor([item]))
    cnn = next(part for part in model.modules() if isinstance(part, ImageCNN))
    pixels = torch.from_numpy(np.array(row.images["poster"].pixels[int(row.images["poster"].row[0])]))
    map_CHW = cnn.feature_map(pixels.unsqueeze(0))[0].detach()
    mean_C = map_CHW.mean((1, 2)).requires_grad_()
    handle = cnn.head.register_forward_pre_hook(lambda module, inputs: (mean_C.unsqueeze(0),))
    vector_ND = torch.cat([net.item, net.encoder(row)])
    bias_N = torch.cat([net.bias, net.bias[[item]]])
    score = net._scores(queries.history, vector_ND, net._scale(vector_ND), bias_N)[0, -1]
    handle.remove()
    (slope_C,) = torch.autograd.grad(score, mean_C)
    wanted = (slope_C[:, None, None] * map_CHW).sum(0) / map_CHW[0].numel()
    found = {c.key[1]: c.value for c in told.of("region")}
    values = [found[box] for box in sorted(found)]
    assert float(score.detach()) == pytest.approx(told.score, abs=1e-4)
    np.testing.assert_allclose(values, wanted.flatten().numpy(), atol=0.02 * float(wanted.abs().max()) + 1e-5)
    assert sum((b - t) * (r - x) for t, x, b, r in found) == SIZE[1] * SIZE[2]


def test_grad_cam_needs_an_image_cnn() -> None:
    model = trained("content-knn")
    queries = films().queries(np.array([0]), model.spec)
    with pytest.raises(
        CannotAnswer, match=r"grad-cam is not available for ContentKNN: no image .*; use one of shap, lime, occlusion"
    ):
        explain(model, films(), queries, 3, "grad-cam")


@pytest.mark.parametrize("name", ["vbpr", "two-tower", "deepfm", "hybrid", "content-knn"])
def test_content_models_add_up(name: str) -> None:
    small = {
        "two-tower": {"text": "bag", "columns": ("genre", "plot")},
        "vbpr": {"content": "frozen"},
    }
    model = trained(name, 1, **small.get(name, {}))
    queries = films().queries(np.array([5]), model.spec)
    item = next(i for i in range(60) if i not in queries.history.values.tolist())
    told = explain(model, films(), queries, item, "shap", samples=60)
    assert sum(c.value for c in told.contributions) + told.residual == pytest.approx(told.score, abs=1e-4)
    kinds = {c.kind for c in told.of()}
    assert "feature" in kinds
    if "history" in model.answers:
        assert "history" in kinds
        stranger = Queries(torch.tensor([-1]), queries.history, queries.ratings, queries.features)
        assert abs(explain(model, films(), stranger, item, "shap", samples=60).residual) < 1e-3
    else:
        assert abs(told.residual) < 1e-3


def test_pictures(tmp_path: Path) -> None:
    model = trained("text-cnn", dim=16, text="bag")
    queries = films().queries(np.array([0]), model.spec)
    features = model.spec.item_features
    assert features is not None
    told = explain(model, films(), queries, 3, "shap", samples=100)
    assert plots.bars(told, 4).startswith(b"\x89PNG")
    words = explain(model, films(), queries, 3, "shap", samples=100, kinds=["word"])
    [column] = features.of("text")
    row = films().encoded_items(features).take(torch.tensor([3]))
    tokens = [word(column, token) for token in row.text["plot"].values.tolist()]
    page = plots.shaded_html(words, [*tokens, "<b>"], "plot")
    assert "&lt;b&gt;" in page
    assert all(f">{token}</span>" in page for token in tokens)
    assert plots.shaded(words, tokens, "plot").startswith(b"\x89PNG")
    regions = of_films(trained("image-cnn", 4, dim=16), ["region"], "grad-cam", 1)[0][1]
    image = np.zeros(SIZE, dtype=np.uint8)
    assert plots.heat_map(regions, image, "poster").startswith(b"\x89PNG")
    with pytest.raises(CannotAnswer, match="has no words of title"):
        plots.shaded(words, tokens, "title")
    with pytest.raises(CannotAnswer, match="has no regions of poster"):
        plots.heat_map(words, image, "poster")


def test_an_empty_history_leaves_the_features() -> None:
    model = summing()
    assert model.spec.user_features is not None
    people = films().encoded_users(model.spec.user_features)
    queries = Queries(torch.tensor([-1]), Ragged.empty(1), None, people.take(torch.tensor([5])))
    told = explain(model, films(), queries, 2)
    assert {c.kind for c in told.of()} == {"feature", "word"}
    assert abs(told.residual) < 1e-4


def test_a_word_of_two_columns_is_named_with_its_column() -> None:
    words = [("title", "red"), ("title", "moon"), ("plot", "red")]
    players = [Player("word", (column, place, text), text) for place, (column, text) in enumerate(words)]
    named = [player.label for player in unambiguous([*players, Player("history", 3, "moon")])]
    assert named == ["red (title)", "moon", "red (plot)", "moon"]
