"""New films by what is known of them: each input's worth.

    python benchmarks/cold_inputs.py [--seeds 0 1 2] [--keep FOLDER]

The protocol is that of benchmarks/cold_items.py on ml-1m, whose folder of runs this needs: the text CNN and the image
CNN that were trained there, alone, on the films that training sees, give each film a vector. `content-ials` then reads
some columns of the films, or these vectors, or all; every row of the table may try the same weights of the map, judged
on the first seed's new films of valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from cold_items import ENCODERS, FILMS, METRICS, PLAIN, fitted, parts_of
from common import arguments, asked, student, write_result
from item_tables import ml_1m

from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.models.content.content_ials import ContentIALS, ContentIALSConfig

ROWS: dict[str, tuple[str, ...]] = {
    "genres": ("genres",),
    "year": ("year",),
    "cast and director": ("director", "actors"),
    "plot by TF-IDF": ("plot",),
    "plot by text CNN": ("text-cnn",),
    "poster by image CNN": ("image-cnn",),
    "genres, year, cast and director, plot by TF-IDF": ("genres", "year", "director", "actors", "plot"),
    "these and the image CNN": ("genres", "year", "director", "actors", "plot", "image-cnn"),
    "all": ("genres", "year", "director", "actors", "plot", *ENCODERS),
}
MAPS = (0.3, 1.0, 3.0)
"""Weights of L2 on the map that each row may try."""


def films(seed: int, keep: Path) -> pl.DataFrame:
    """What is known of films, the encoders' vectors among it."""
    table = ml_1m()[1].drop("title", "poster")
    ids = pl.Series("item_id", parts_of("ml-1m", seed).test.items.ids).cast(pl.Int64)
    for name in ENCODERS:
        file = keep / f"ml-1m-{seed}" / f"{name}.npy"
        if not file.exists():
            raise SystemExit(f"{file} is missing; run benchmarks/cold_items.py --data ml-1m --keep {keep} first")
        vectors = pl.DataFrame({"item_id": ids, name: np.load(file)})
        table = table.join(vectors, on="item_id", how="left")
    return table


def run(
    seed: int, table: pl.DataFrame, columns: Sequence[str], reg: float, test: bool
) -> tuple[float, Evaluation | None]:
    """ndcg@20 on valid's new films and, if asked for, how test's are listed."""
    parts = parts_of("ml-1m", seed, more=table.select("item_id", *columns))
    found, model = fitted(ContentIALS, ContentIALSConfig(**FILMS, map_reg=reg), PLAIN, parts)
    return found["valid"], evaluate(model, parts.test, METRICS, candidates="new") if test else None


def main() -> None:
    """Print the table and write it down."""
    parser = arguments(__doc__)
    parser.set_defaults(keep=Path("runs") / "cold_items")
    given = asked(parser)
    tables = {seed: films(seed, given.keep) for seed in given.seeds}
    rows, first = [], {}
    for name, columns in ROWS.items():
        valid = [run(given.seeds[0], tables[given.seeds[0]], columns, reg, test=False)[0] for reg in MAPS]
        reg = MAPS[int(np.argmax(valid))]
        found = [run(seed, table, columns, reg, test=True)[1] for seed, table in tables.items()]
        runs = [each for each in found if each is not None]
        first[name] = runs[0]
        rows.append([name, f"{reg}", *(student([run[m].value for run in runs]) for m in ("recall@20", "ndcg@20"))])
        print(" | ".join(rows[-1]), flush=True)
    differences = compare(first, "recall@20", baseline="genres").differences
    about = [
        f"Data: ml-1m, films rated 4 or 5; a fifth of the films new, half of them valid's; seeds {given.seeds}.",
        f"Protocol hash (first seed): {runs[0].protocol.hash}. Lists of new films alone.",
        f"Intervals: 95 %, Student's t over {len(given.seeds)} seeds.",
        f"Model: {ContentIALSConfig(**FILMS)}, map_reg as chosen on valid.",
        "Test figures of this model on genres, year, cast and director with the plot had been seen before this script "
        "was written; since then both CNNs were trained anew, popularity kept apart (decision 16).",
        "First seed, paired by users, Holm-corrected:",
        *(difference.verdict for difference in differences),
    ]
    write_result(
        "cold_inputs", "New films, by what is known of them", about, ["input", "map_reg", "recall@20", "ndcg@20"], rows
    )


if __name__ == "__main__":
    main()
