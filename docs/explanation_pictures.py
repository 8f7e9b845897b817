"""Draws the pictures of explanations.md in docs/images, from invented films with generated posters.

python docs/explanation_pictures.py
"""

from __future__ import annotations

import os
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from PIL import Image, ImageDraw

from palate.config import Training
from palate.data.dataset import Dataset
from palate.explanation import plots
from palate.explanation.explain import explain
from palate.explanation.maskable_features import word
from palate.models import MODELS
from palate.models.base import Model

FILMS, USERS = 120, 300
GENRES = {
    "crime": "heist casino detective robber vault getaway",
    "horror": "ghost castle curse midnight scream cellar",
    "western": "sheriff saloon canyon rider outlaw dust",
    "space": "orbit station astronaut signal moon crew",
}
PLOT = (
    "a {} and an old {} meet a stranger who knows the {} and nobody can say what the {} will cost before the day ends"
)
ADJECTIVES = [
    "Silent",
    "Golden",
    "Last",
    "Broken",
    "Distant",
    "Crooked",
    "Burning",
    "Hidden",
    "Paper",
    "Hollow",
    "Second",
    "Restless",
]


def poster(genre: str, rng: np.random.Generator) -> bytes:
    """Sky and ground in random colours, and one shape at a random place that shows the genre."""
    sky, ground = (tuple(int(v) for v in rng.integers(60, 200, 3)) for _ in range(2))
    image = Image.new("RGB", (96, 144), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 100, 96, 144), fill=ground)
    x, y = int(rng.integers(8, 52)), int(rng.integers(12, 78))
    if genre == "crime":
        draw.rectangle((x, y, x + 34, y + 34), fill=(240, 240, 240))
        for row in range(4):
            for column in range(4):
                if (row + column) % 2:
                    draw.rectangle(
                        (x + 8 * column + 1, y + 8 * row + 1, x + 8 * column + 8, y + 8 * row + 8), fill=(15, 15, 15)
                    )
    elif genre == "horror":
        draw.ellipse((x, y, x + 34, y + 34), fill=(245, 245, 235))
        draw.ellipse((x + 7, y + 8, x + 14, y + 18), fill=(10, 10, 10))
        draw.ellipse((x + 20, y + 8, x + 27, y + 18), fill=(10, 10, 10))
        draw.ellipse((x + 12, y + 21, x + 22, y + 31), fill=(10, 10, 10))
    elif genre == "western":
        for spoke in range(5):
            draw.line((x + 17, y + 2, x + 7 * spoke + 3, y + 34), fill=(60, 30, 10), width=3)
        draw.line((x, y + 17, x + 34, y + 17), fill=(60, 30, 10), width=3)
    else:
        for radius in (17, 12, 7):
            draw.ellipse(
                (x + 17 - radius, y + 17 - radius, x + 17 + radius, y + 17 + radius), outline=(250, 250, 250), width=2
            )
    out = BytesIO()
    image.save(out, "png")
    return out.getvalue()


def films() -> Dataset:
    """Users who mostly watch films of one genre."""
    rng = np.random.default_rng(5)
    names = list(GENRES)
    genre = [names[i % 4] for i in range(FILMS)]
    vocabulary = [GENRES[g].split() for g in genre]
    chosen = [rng.choice(w, 4, replace=False).tolist() for w in vocabulary]
    titles = [f"The {ADJECTIVES[int(rng.integers(12))]} {words[0].title()}" for words in chosen]
    table = pl.DataFrame(
        {
            "item_id": list(range(FILMS)),
            "title": titles,
            "genre": genre,
            "plot": [PLOT.format(*words) for words in chosen],
            "poster": [poster(g, rng) for g in genre],
        }
    )
    rows = []
    for user in range(USERS):
        mine, others = (np.flatnonzero((np.arange(FILMS) % 4 == user % 4) == own) for own in (True, False))
        rows += [(user, int(i)) for i in rng.choice(mine, 12, replace=False)]
        rows += [(user, int(i)) for i in rng.choice(others, 6, replace=False)]
    frame = pl.DataFrame(rows, schema={"user_id": pl.Int64, "item_id": pl.Int64}, orient="row")
    return Dataset.from_frame(frame, table, item_kinds={"title": "ignore", "plot": "text", "poster": "image"})


def fitted(data: Dataset, name: str, epochs: int, batch_size: int, **config: Any) -> Model:
    """A model, trained on the data."""
    kind = MODELS[name]
    model = kind(kind.Config(**config), kind.spec_of(data))
    model.fit(data, Training(epochs=epochs, batch_size=batch_size, lr=0.005))
    return model


def main() -> None:
    """Train three small models, and draw an explanation of each."""
    folder = Path(__file__).parent / "images"
    data = films()
    user = np.array([0])
    item = next(i for i in range(24, FILMS, 4) if i not in data.histories[0].tolist())
    history = fitted(data, "multvae", 60, 32, hidden=64, dim=32)
    found = explain(history, data, data.queries(user, history.spec), item, "shap")
    (folder / "explanation-bars.png").write_bytes(plots.bars(found, 10))

    reader = fitted(data, "text-cnn", 15, 32, dim=32, text="bag")
    assert reader.spec.item_features is not None
    found = explain(reader, data, data.queries(user, reader.spec), item, "shap", kinds=["word"])
    [column] = reader.spec.item_features.of("text")
    row = data.encoded_items(reader.spec.item_features).take(torch.tensor([item]))
    tokens = [word(column, token) for token in row.text["plot"].values.tolist()]
    (folder / "explanation-words.png").write_bytes(plots.shaded(found, tokens, "plot"))

    viewer = fitted(data, "image-cnn", 6, 32, dim=32, augment=False)
    found = explain(viewer, data, data.queries(user, viewer.spec), item, "shap", kinds=["region"])
    image = row.images["poster"]
    (folder / "explanation-regions.png").write_bytes(plots.heat_map(found, image.pixels[int(image.row[0])], "poster"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PALATE_CACHE"] = cache
        main()
