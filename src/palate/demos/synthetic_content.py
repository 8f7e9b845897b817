"""Synthetic posters and plots for `palate demo --content`, made from the genres of the films alone.

A poster has the colour of the film's first genre and the shapes of its last genre. A plot has some words of each genre
among filler words. A model can therefore learn from them what genres say, and no more. The demo says that they are
synthetic.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from io import BytesIO

import numpy as np
import polars as pl

from palate.errors import DataError
from palate.extras import missing_extra

WIDTH, HEIGHT = 96, 144
WORDS = {
    "action": "chase explosion gunfire helicopter showdown hostage mission bodyguard",
    "adventure": "treasure jungle voyage island map expedition ruins compass",
    "animation": "talking puppet magic carrot songbird toybox rainbow squirrel",
    "children's": "puppy school kite grandma birthday playground teddy schoolboy",
    "comedy": "wedding mixup prank hilarious clumsy neighbour disguise blunder",
    "crime": "heist mobster detective robbery witness gang alibi smuggler",
    "documentary": "interview archive footage witnesses narrator history testimony record",
    "drama": "family grief divorce secret illness farewell daughter hardship",
    "fantasy": "dragon wizard spell kingdom prophecy elf sword enchanted",
    "film-noir": "shadow cigarette femme blackmail rain private-eye alley betrayal",
    "horror": "haunted scream vampire slasher cellar curse possessed graveyard",
    "musical": "song dance broadway chorus stage melody orchestra tap",
    "mystery": "clue missing puzzle riddle stranger mansion vanished diary",
    "romance": "kiss love letter paris sweetheart proposal embrace moonlight",
    "sci-fi": "spaceship robot alien planet future laboratory android galaxy",
    "thriller": "conspiracy killer pursuit deadline spy stalker ransom suspect",
    "war": "soldier trench battalion sergeant front invasion general platoon",
    "western": "cowboy saloon sheriff desert outlaw ranch horse duel",
}
"""Plot words of each genre; for other genres, numbered words that begin with the name of the genre."""
FILLERS = (
    "a",
    "long",
    "summer",
    "and",
    "the",
    "old",
    "man",
    "in",
    "town",
    "with",
    "his",
    "brother",
    "one",
    "day",
    "of",
)


def synthetic_content(genres: pl.Series, seed: int = 0) -> pl.DataFrame:
    """Columns `poster` (PNG, 96 wide x 144 high) and `plot` for films of these genres.

    Args:
        genres: Names separated by `|`; a film without genres (null) gets neither poster nor plot.
        seed: Seed of positions, shades and words.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    rng = np.random.default_rng(seed)
    lists = [None if text is None else text.split("|") for text in genres]
    names = sorted({name for some in lists if some for name in some})
    posters = [None if not some else _png(_poster(names.index(some[0]), names.index(some[-1]), rng)) for some in lists]
    plots = [None if not some else _plot(some, rng) for some in lists]
    return pl.DataFrame({"poster": pl.Series(posters, dtype=pl.Binary), "plot": pl.Series(plots, dtype=pl.String)})


def genres_of(table: pl.DataFrame | None) -> pl.Series:
    """The column `genres` of an item table.

    Args:
        table: The item table of a data set, or None.

    Raises:
        DataError: There is no such column of texts.
    """
    if table is None or "genres" not in table.columns or table["genres"].dtype != pl.String:
        raise DataError(
            "synthetic posters and plots are made from the genres of the films, and the item table has no text column "
            "genres; pass --items FILE with posters or plots"
        )
    return table["genres"]


def _plot(genres: list[str], rng: np.random.Generator) -> str:
    words = []
    for genre in genres:
        own = WORDS.get(genre.lower(), " ".join(f"{genre}-{n}" for n in range(8))).split()
        words += rng.choice(own, 4, replace=False).tolist()
    words += rng.choice(FILLERS, 2 * len(words)).tolist()
    return " ".join(rng.permutation(words).tolist()).capitalize() + "."


def _poster(first: int, last: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels, uint8 `[HEIGHT, WIDTH, 3]`: the first genre's colour under the shapes of the last."""
    # Consecutive genres get distant hues; every second genre is darker.
    hue = (0.618 * first + rng.normal(0, 0.012)) % 1
    ground = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.85 - 0.3 * (first % 2) + rng.normal(0, 0.04)))
    ink = np.array(colorsys.hsv_to_rgb((hue + 0.5) % 1, 0.35, 0.95))
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    scale = (10.0, 16.0, 26.0)[last // len(SHAPES) % 3]
    shape = SHAPES[last % len(SHAPES)](x + rng.uniform(0, 50), y + rng.uniform(0, 50), scale)
    shade = 1 - 0.35 * y / HEIGHT
    picture = np.where(shape[..., None], ink, ground) * shade[..., None] + rng.normal(0, 0.04, (HEIGHT, WIDTH, 1))
    return np.asarray((255 * picture.clip(0, 1)).astype(np.uint8))


def _dots(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(np.hypot(x % scale - scale / 2, y % scale - scale / 2) < 0.32 * scale)


def _chessboard(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray((x // scale + y // scale) % 2 == 0)


def _rings(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(np.hypot(x - 70, y - 95) % scale < 0.4 * scale)


def _triangles(x: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(np.abs(x % scale - scale / 2) < 0.45 * (y % scale))


SHAPES: tuple[Callable[[np.ndarray, np.ndarray, float], np.ndarray], ...] = (
    lambda x, y, scale: x % scale < 0.4 * scale,
    _dots,
    lambda x, y, scale: (x + y) % scale < 0.4 * scale,
    _rings,
    _chessboard,
    _triangles,
    lambda x, y, scale: y % scale < 0.4 * scale,
)
"""Stripes, dots, diagonals, rings, a chessboard, triangles, bars."""


def _png(pixels: np.ndarray) -> bytes:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("posters need Pillow", "images") from error
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
