"""`palate demo --content`: recommend new films by their posters, plots and genres.

A fifth of the films is not in the training data. A CNN on posters, a CNN on plots and a two-tower model of all features
are trained on the others, and evaluated on the new films. MovieLens has neither posters nor plots, so the demo makes
them from the genres (`palate.demos.synthetic_content`), unless you pass a table of your own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from palate.data.dataset import Dataset, Queries
from palate.data.features.schema import FeatureBatch
from palate.data.reading.side_tables import read_side
from palate.data.splits.build import Split
from palate.demos.shared import DemoModel, load_or_synthetic, note_missing_pictures, results_table, train
from palate.demos.similar_films import KINDS, Film, picture, similar_films
from palate.demos.synthetic_content import genres_of, synthetic_content
from palate.errors import ConfigError
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.render import Block, Heading, Picture, Points, Text, write
from palate.evaluation.report import Report, content
from palate.models.base import Model
from palate.recommender.recommender import Recommender
from palate.training.train_run import Epoch, TrainRun

SPLIT = {"valid": 0.1, "test": 0.2}
METRICS = ("ndcg@10", "recall@10")
CNN_CONFIG = {"dim": 32, "pool": 160}
CNN_TRAINING = {"epochs": 5, "batch_size": 96, "lr": 3e-3}
DEMO_MODELS = {
    "popularity": DemoModel("popularity", {}, {}),
    "content-knn": DemoModel("content-knn", {}, {}),
    "image-cnn": DemoModel("image-cnn", CNN_CONFIG, CNN_TRAINING),
    "text-cnn": DemoModel("text-cnn", CNN_CONFIG, {"epochs": 8}),
    "two-tower": DemoModel("two-tower", CNN_CONFIG, CNN_TRAINING),
}
READS: dict[str, Literal["image", "text"]] = {"image-cnn": "image", "text-cnn": "text"}
"""Model -> the kind of column that it needs."""
NOTE = "Higher is better; ± is half of the 95 % interval. Popularity cannot list new films."
SIMILARITY = (
    "[n] is the similarity: of posters and of all features the cosine of the model's whitened vectors, 0 for unrelated "
    "films; of words the cosine of their BM25 weights, 0 without a common word; of genres and users the cosine of the "
    "two sets."
)
TITLE = "New films by their posters and plots"
SYNTHETIC = (
    "SYNTHETIC: these posters and plots are made from the genres of the films, so they say no more than the genres; "
    "pass --items FILE for real ones"
)
PRINTED = 3
"""Similar films that are printed in a line."""


@dataclass(frozen=True)
class RandomConfig:
    """No settings."""


class RandomRanker(Model):
    """The same score for all items: its metrics are the expected values of random lists."""

    Config = RandomConfig
    needs = frozenset({"interactions", "item_features"})
    answers = frozenset({"known_user", "history", "new_item"})

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        return []

    def _score(self, queries: Queries) -> Tensor:
        return torch.zeros(len(queries), self.spec.n_items, device=queries.user.device)

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        return {}


def run(out: Path, name: str = "movielens-100k", items: Path | None = None, seed: int = 0) -> None:
    """Run the demo and print its results.

    Args:
        out: Folder for the two-tower recommender, the report and its pictures.
        name: A data set of `palate.data.sources`; if it cannot be downloaded, the synthetic one is used.
        items: Table of films with `item_id` and columns of texts or images (bytes, or paths of files). Defaults to
            synthetic posters and plots.
        seed: Seed of the split, the training, the synthetic content and the choice of the films shown.

    Raises:
        ConfigError: The table has neither texts nor images.
    """
    begin = time.perf_counter()
    note_missing_pictures()
    data = _with_content(load_or_synthetic(name), items, seed)
    parts = data.split("new-items", seed=seed, **SPLIT)
    notes = (*data.notes, *parts.notes)
    for note in notes:
        print(f"  {note}")
    recommenders, evaluations = _train_and_evaluate(parts, seed)
    print("\nResults on new films, ranked among themselves, for the users who rated one (the test part):\n")
    print("\n".join(results_table(evaluations, METRICS, NOTE)))
    verdicts = [d.verdict for d in compare(evaluations, METRICS[0], baseline="content-knn").differences]
    print("\n" + "\n".join(verdicts))
    table = parts.test.item_table
    assert table is not None
    new = table[parts.train.n_items :]
    extended = {model: rec.add_items(new) for model, rec in recommenders.items() if model in KINDS}
    films = similar_films(extended, parts.train, parts.test, seed)
    print(f"\nSimilar films. {SIMILARITY}\n\n" + "\n".join(line for film in films for line in _lines(film)))
    extended["two-tower"].save(out)
    report = Report(
        title=TITLE,
        evaluations=evaluations,
        records={model: rec.records for model, rec in recommenders.items() if rec.records},
        metric=METRICS[0],
        baseline="content-knn",
        notes=notes,
    )
    files = ["report.html", "report.md", *_write(out, report, films)]
    print(f"In {out}: the two-tower recommender, {', '.join(files)}.")
    print(f"The demo took {time.perf_counter() - begin:.0f} s.")


def _with_content(data: Dataset, items: Path | None, seed: int) -> Dataset:
    """The data with an item table that has texts or images."""
    known = pl.DataFrame({"item_id": data.items.ids}) if data.item_table is None else data.item_table
    notes = data.notes
    if items is None:
        more = synthetic_content(genres_of(data.item_table), seed)
        table, notes = known.with_columns(more.get_columns()), (*notes, SYNTHETIC)
    else:
        more = read_side(items, "item_id", data.items.ids.dtype)
        own = [column for column in known.columns if column == "item_id" or column not in more.columns]
        table = known.select(own).join(more, on="item_id", how="left", maintain_order="left")
    found = Dataset.from_frame(data.frame(), table, data.user_table, data.rating_scale, notes)
    features = found.feature_spec.item_features
    if features is None or not features.of("text", "image"):
        raise ConfigError(
            f"{items} has neither texts nor images; its columns are {', '.join(table.columns)}. Pass --items FILE with "
            "a column of texts or images"
        )
    return found


def _train_and_evaluate(parts: Split, seed: int) -> tuple[dict[str, Recommender], dict[str, Evaluation]]:
    features = parts.train.feature_spec.item_features
    assert features is not None
    options = (*SPLIT.items(), ("seed", seed))
    protocol = Protocol(split="new-items", split_options=options, metrics=METRICS, candidates="new")
    random = RandomRanker(RandomConfig(), RandomRanker.spec_of(parts.train))
    recommenders = {"random": Recommender.train(parts.train, random)}
    for name, model in DEMO_MODELS.items():
        if name in READS and not features.of(READS[name]):
            print(f"{name} was skipped: the item table has no {READS[name]}")
            continue
        recommenders[name], _ = train(name, model, parts, seed)
    evaluations = {
        name: evaluate(rec.model, parts.test, protocol=protocol, name=name) for name, rec in recommenders.items()
    }
    return recommenders, evaluations


def _lines(film: Film) -> Iterator[str]:
    width = max(len(row.kind) for row in film.rows) + 1
    yield film.heading
    for row in film.rows:
        yield f"  {row.kind + ':':{width}}  {row.text(PRINTED)}"
    yield ""


def _write(out: Path, report: Report, films: list[Film]) -> list[str]:
    """Write the report; returns the names of the pictures of films."""
    pictures = find_spec("matplotlib") is not None
    blocks: list[Block] = [*content(report, pictures), Heading("Films similar to three films"), Text(SIMILARITY)]
    for film in films:
        blocks.append(Text(film.heading))
        blocks.append(Points([f"{row.kind}: {row.text()}" for row in film.rows]))
        if pictures:
            blocks.append(Picture(film.name, f"{film.title} and the films most similar to it", picture(film)))
    write(out, "report", report.title, blocks)
    return [f"{film.name}.png" for film in films if pictures]
