"""The films most similar to a film by poster, words, genres, common users, and by all of these; and a picture of them.

Similarity by a model is the cosine of whitened item vectors: what all films have in common does not count, and every
direction counts alike, so that 0 is an unrelated film. (Vectors of a short training lie along two or three directions,
and without whitening many unrelated films have a cosine near 1.) Similarity by words is the cosine of the BM25 weights
of the texts' words, in which a word that few texts hold counts more. By genres and by common users it is the cosine of
sets: 0 if they have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.data.dataset import Dataset
from palate.data.features.schema import FeatureSchema
from palate.data.features.table import title_column
from palate.device import on_cpu
from palate.evaluation.plots import INK, PALE, panels, to_png
from palate.models.content.content_vectors import BlockWeights, content_vectors, dense_vectors
from palate.ranking.ranked import tag_vectors
from palate.recommender.item_similarity import item_similarity
from palate.recommender.recommender import Recommender

NEAREST = 5
"""Films in a row."""
POPULAR = 100
"""Number of the most popular films that two of the three are drawn from."""
NO_USERS = "no user has it yet"
KINDS = {"image-cnn": "similar poster", "two-tower": "similar in all"}
"""Model -> kind of similarity."""
WORDS, GENRES, USERS = "similar words", "similar genres", "liked by the same users"
RIDGE = 0.1
"""Added to the variance of each direction when vectors are whitened, in mean variances."""

Pixels = Callable[[int], np.ndarray | None]
"""From an item to its poster, `[H, W, 3]`, or None."""


@dataclass(frozen=True, eq=False)
class Poster:
    """A film in a row: its title, pixels `[H, W, 3]` or None, and similarity."""

    title: str
    pixels: np.ndarray | None
    similarity: float = 1.0

    def __str__(self) -> str:
        return f"{self.title} [{self.similarity:.2f}]"


@dataclass(frozen=True, eq=False)
class Row:
    """The most similar films by one kind of similarity, best first; `empty` says why there are none."""

    kind: str
    films: list[Poster]
    empty: str = ""

    def text(self, most: int = NEAREST) -> str:
        """The first films with their similarities, or why there are none."""
        return "; ".join(map(str, self.films[:most])) or self.empty


@dataclass(frozen=True, eq=False)
class Film:
    """A film and the films most similar to it.

    Attributes:
        name: File name of its picture.
        title: Title.
        new: Whether it has no training interactions.
        poster: Its own poster.
        rows: The most similar films by each kind of similarity.
    """

    name: str
    title: str
    new: bool
    poster: Poster
    rows: list[Row]

    @property
    def heading(self) -> str:
        """The title, and whether the film is new."""
        return f"{self.title} (new: no user has it)" if self.new else self.title


def similar_films(recommenders: Mapping[str, Recommender], train: Dataset, test: Dataset, seed: int = 0) -> list[Film]:
    """Two popular films and a new one, with the films most similar to them.

    Args:
        recommenders: Name of a model -> recommender, extended by the new films of the test part.
        train, test: Parts of the split.
        seed: Seed of the choice of films.
    """
    data = recommenders["two-tower"].data
    pixels = _pixels(recommenders)
    vectors: dict[str, Tensor] = {}
    for name, rec in recommenders.items():
        if (found := on_cpu(rec.model.item_vectors())) is not None:
            vectors[KINDS[name]] = whitened(found)
    table, features = data.item_table, recommenders["two-tower"].model.spec.item_features
    assert table is not None
    assert features is not None
    title = title_column(table.columns, data.item_kinds)  # It often holds a year, which is no word.
    if texts := tuple(column for column in features.of("text") if column.name != title):
        words = FeatureSchema(columns=texts)
        vectors[WORDS] = dense_vectors(content_vectors(data.encoded_items(words), words, BlockWeights(shrink=0.0)))
    if any(column.name == "genres" for column in features.of("tags")):
        vectors[GENRES] = tag_vectors(table["genres"])
    films = []
    for place, item in enumerate(_chosen(train, test, pixels, seed)):
        title = data.titles(np.array([item]))[0]
        films.append(
            Film(
                name=f"like-{place + 1}",
                title=title,
                new=item >= train.n_items,
                poster=Poster(title, pixels(item)),
                rows=_rows(item, vectors, train, data, pixels),
            )
        )
    return films


def whitened(vectors: Tensor) -> Tensor:
    """Item vectors without what all items have in common, of similar variance in all directions, `[N, D]`."""
    centered = (vectors - vectors.mean(0)).double()
    variance, directions = torch.linalg.eigh(centered.T @ centered / len(centered))
    scale = (variance + RIDGE * variance.mean()).clamp(min=1e-12).sqrt()
    found: Tensor = (centered @ directions / scale).float()
    return found


def _chosen(train: Dataset, test: Dataset, pixels: Pixels, seed: int) -> list[int]:
    """Two of the most popular films, and the most popular new film; with a poster, if there are posters."""
    rng = np.random.default_rng(seed)

    def first(order: np.ndarray, count: int) -> list[int]:
        pictured = [int(item) for item in order if pixels(int(item)) is not None]
        return (pictured or [int(item) for item in order])[:count]

    head = first(np.argsort(-train.item_counts, kind="stable"), POPULAR)
    new = np.argsort(-test.item_counts[train.n_items :], kind="stable") + train.n_items
    return [*sorted(rng.choice(head, 2, replace=False).tolist()), *first(new, 1)]


def _pixels(recommenders: Mapping[str, Recommender]) -> Pixels:
    rec = recommenders.get("image-cnn")
    if rec is None or rec.model.spec.item_features is None:
        return lambda item: None
    features = rec.model.spec.item_features
    images = rec.data.encoded_items(features).images[features.of("image")[0].name]

    def find(item: int) -> np.ndarray | None:
        row = int(images.row[item])
        return None if row < 0 else np.asarray(images.pixels[row]).transpose(1, 2, 0)

    return find


def _rows(item: int, vectors: Mapping[str, Tensor], train: Dataset, data: Dataset, pixels: Pixels) -> list[Row]:
    """One row for each kind of similarity; the similarity in all of these is the last."""
    kinds = [kind for kind in vectors if kind != KINDS["two-tower"]]
    found = {kind: item_similarity(train, vectors[kind], item)[0] for kind in kinds}
    found[USERS] = item_similarity(_liked(train), None, item)[0] if item < train.n_items else np.zeros(data.n_items)
    found[KINDS["two-tower"]] = item_similarity(train, vectors[KINDS["two-tower"]], item)[0]
    rows = []
    for kind, similarity in found.items():
        order = np.argsort(-similarity, kind="stable")
        near = [int(i) for i in order[order != item][:NEAREST] if similarity[i] > 0]
        titles = data.titles(np.array(near, dtype=np.int64))
        films = [Poster(t, pixels(i), float(similarity[i])) for i, t in zip(near, titles, strict=True)]
        rows.append(Row(kind, films, NO_USERS if kind == USERS else "no similar film"))
    return rows


def _liked(train: Dataset) -> Dataset:
    """The rows with a rating in the upper quarter of the scale; all rows of data without ratings."""
    if train.rating is None or train.rating_scale is None:
        return train
    low, high = train.rating_scale
    return train.take(train.rating >= low + 0.75 * (high - low))


def picture(film: Film) -> bytes:
    """A PNG: the film on the left, and a row of posters for each kind of similarity.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    figure, axes = panels((NEAREST + 1) * len(film.rows), 1.38, 2.3, across=NEAREST + 1)
    for axis in axes:
        axis.set_axis_off()
    _draw(axes[0], film.poster, "new: no user has it" if film.new else "")
    _label(axes[0], "this film")
    for place, row in enumerate(film.rows):
        line = axes[place * (NEAREST + 1) + 1 : (place + 1) * (NEAREST + 1)]
        for axis, near in zip(line, row.films, strict=False):
            _draw(axis, near, f"{near.similarity:.2f}")
        _label(line[0], row.kind)
        if not row.films:
            line[0].text(0.05, 0.5, row.empty, transform=line[0].transAxes, fontsize=8.5, color=PALE, in_layout=False)
    return to_png(figure, axes)


def _label(axis: Any, text: str) -> None:
    """A text along the left edge."""
    axis.text(-0.05, 0.5, text, transform=axis.transAxes, fontsize=8.5, rotation=90, ha="right", va="center", color=INK)


def _draw(axis: Any, poster: Poster, note: str) -> None:
    axis.imshow(np.full((144, 96, 3), 238, dtype=np.uint8) if poster.pixels is None else poster.pixels)
    if poster.pixels is None:
        axis.text(0.5, 0.5, "no poster", transform=axis.transAxes, ha="center", fontsize=7, color=PALE)
    title = wrap(poster.title, 22, max_lines=2, placeholder="…")
    # Always two lines, so that the posters of a row have the same height.
    axis.set_title("\n".join([*title, " ", " "][:2]), fontsize=6.5, color=INK, pad=2, linespacing=1.0)
    axis.text(0.5, -0.08, note, transform=axis.transAxes, ha="center", fontsize=6.5, color=PALE)
