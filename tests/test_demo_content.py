"""The content demo at small size: what it prints, what it leaves, content of one's own, and its synthetic posters."""

from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from palate import Recommender
from palate.cli.demo import demo
from palate.data.dataset import Dataset
from palate.demos import content as demo_content
from palate.demos.similar_films import GENRES, KINDS, NO_USERS, USERS, WORDS, _rows, whitened
from palate.demos.synthetic_content import HEIGHT, WIDTH, genres_of, synthetic_content
from palate.errors import ConfigError, DataError
from palate.recommender.item_similarity import item_similarity

QUICK = {"epochs": 1, "batch_size": 64, "lr": 0.003}
SMALL = {"dim": 8, "pool": 40}


def ran(out: Path, items: Path | None = None) -> str:
    """What the demo prints, on a small synthetic data set and with little training."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        quick = {
            name: replace(entry, config=entry.config and SMALL, training=entry.training and QUICK)
            for name, entry in demo_content.DEMO_MODELS.items()
        }
        patch.setattr(demo_content, "DEMO_MODELS", quick)
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        demo_content.run(out, "synthetic-1500", items, seed=1)
    return "\n".join(lines)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("content")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE", str(out / "cache"))
        return out / "run", ran(out / "run")


def test_it_says_what_is_synthetic(output: tuple[Path, str]) -> None:
    assert "SYNTHETIC: these posters and plots are made from the genres" in output[1]
    assert "SYNTHETIC" in (output[0] / "report.md").read_text()


def test_every_model_has_a_row_with_intervals(output: tuple[Path, str]) -> None:
    names = ["random", *demo_content.DEMO_MODELS]
    rows = re.findall(rf"^({'|'.join(names)}) +(\d\.\d{{4}}) ±(\d\.\d{{4}}) +(\d\.\d{{4}}) ±", output[1], re.MULTILINE)
    assert [row[0] for row in rows] == names
    value = {row[0]: float(row[1]) for row in rows}
    assert value["popularity"] == 0  # it cannot list new films
    assert value["content-knn"] > value["random"] > 0


def test_three_films_with_reasons(output: tuple[Path, str]) -> None:
    told = output[1].split("\n\n")
    films = [block for block in told if "similar poster:" in block]
    assert len(films) == 3
    for film in films:
        for kind in (*KINDS.values(), WORDS, GENRES, USERS):
            assert f"  {kind}: " in film
    assert "(new: no user has it)" in films[2]
    assert re.search(rf"{USERS}: +{NO_USERS}", films[2])
    assert not re.search(rf"{USERS}: +no user", films[0])


def test_similarities_tell_similar_films_from_others() -> None:
    """What all films share counts as 0, not as 1; nor does one direction along which all of them lie."""
    rng = np.random.default_rng(0)
    shared = torch.full((1, 8), 20.0)
    vectors = torch.from_numpy(rng.normal(size=(40, 8))).float() * torch.tensor([10.0, *[1.0] * 7]) + shared
    vectors[1] = vectors[0] + 0.01
    data = Dataset.from_frame(pl.DataFrame({"user_id": [0] * 40, "item_id": list(range(40))}))
    assert item_similarity(data, vectors, 0)[0].min() > 0.9
    rows = _rows(0, {KINDS["two-tower"]: whitened(vectors)}, data, data, lambda item: None)
    films = rows[-1].films
    assert films[0].title == "1"
    assert films[0].similarity > 0.99
    assert all(film.similarity < 0.85 for film in films[1:])


def test_what_it_leaves(output: tuple[Path, str]) -> None:
    from PIL import Image

    out = output[0]
    text = (out / "report.md").read_text()
    assert all((out / name).exists() for name in re.findall(r"\]\(([\w-]+\.png)\)", text))
    for place in (1, 2, 3):
        pixels = np.asarray(Image.open(out / f"like-{place}.png").convert("RGB"))
        assert pixels.shape[0] > 500
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000, "posters are drawn"
    saved = Recommender.load(out)
    assert saved.name == "two-tower"
    assert saved.model.spec.new_items > 0


def test_words_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without images: the poster CNN is skipped, and nothing is synthetic."""
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    table = pl.DataFrame(
        {"item_id": np.arange(190), "blurb": [f"about number {n} and {n % 7} others" for n in range(190)]}
    )
    table.write_csv(tmp_path / "films.csv")
    told = ran(tmp_path / "run", tmp_path / "films.csv")
    assert "image-cnn was skipped: the item table has no image" in told
    assert "SYNTHETIC" not in told
    assert "similar words" in told
    assert "similar poster" not in told


def test_a_table_without_content_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": [0, 1], "title": [1, 2], "length": [90, 100]}).write_csv(tmp_path / "films.csv")
    with pytest.raises(ConfigError, match="has neither texts nor images"):
        demo_content.run(tmp_path / "run", "synthetic-1500", tmp_path / "films.csv")


def test_items_without_content_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goes with --content"):
        demo(items=tmp_path / "films.csv")


def test_posters_and_plots_tell_genres() -> None:
    from PIL import Image

    genres = pl.Series(["Drama", "Drama", "Comedy|Horror", None, "topic 13"])
    found = synthetic_content(genres)
    assert found.equals(synthetic_content(genres))
    assert not found.equals(synthetic_content(genres, seed=1))
    assert found[3].row(0) == (None, None)
    pictures = [np.asarray(Image.open(BytesIO(png))).astype(float) for png in found["poster"].drop_nulls()]
    assert {p.shape for p in pictures} == {(HEIGHT, WIDTH, 3)}
    colours = [p.mean((0, 1)) for p in pictures]
    assert np.abs(colours[0] - colours[1]).sum() < 0.3 * np.abs(colours[0] - colours[2]).sum()
    assert found["poster"][0] != found["poster"][1]
    assert "topic 13-" in str(found["plot"][4]).lower()


def test_synthetic_content_needs_genres() -> None:
    with pytest.raises(DataError, match="--items FILE"):
        genres_of(pl.DataFrame({"item_id": [1]}))
