"""Ratings of new items: how far off models are on items that nobody has rated yet, and on those that training saw.

    python benchmarks/cold_ratings.py [--models mf convmf ...] [--seeds 0 1 2] [--keep FOLDER] [--threads 1]

MovieLens-1M, a fifth of the items new: half of them for valid, half for test, with all their ratings; the ratings of
the other items are cut 8:1:1. Every model may try up to three settings, judged by the rmse on all of the first seed's
valid part; the best is fitted for each seed, its epochs chosen on that seed's own, and judged on test once. With a
folder to keep them in, runs that are done are not done again.

What knows items by their ratings alone says of a new one what it knows of the person. That is done in three ways: the
overall mean; the mean of the person's ratings; and the person's bias beside those of the items, b_u of `bias`. `mf`
answers with the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import Kept, arguments, asked, real_data, student, write_result
from item_tables import WORDS, ml_1m
from torch import Tensor

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.features.schema import FeatureBatch
from palate.data.splits.build import Split
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.models import MODELS
from palate.models.baselines.bias import Bias, BiasConfig
from palate.models.content.convmf import ConvMFConfig
from palate.models.content.deepfm import DeepFMConfig
from palate.models.mf.mf import MFConfig

Choice = tuple[Any, Training]
PLAIN = Training()
FACTORS = Training(epochs=30, batch_size=2048, lr=0.1, optimizer="adagrad", embeddings="rowwise", patience=3)
NET = Training(epochs=8, batch_size=4096, lr=1e-3, weight_decay=0.1, patience=2)
NO_BIAS = 1e12
"""A shrinkage that leaves nothing."""
PEOPLE = ("gender", "age", "occupation")


class UserBias(Bias):
    """`bias` that answers for new items too, with an item bias of 0."""

    answers = Bias.answers | {"new_item"}

    def _new_items(self, features: FeatureBatch) -> dict[str, Tensor]:
        return {"item_bias": torch.zeros(len(features))}


def convmf(text: str, *columns: str, dropout: float = 0.3) -> Choice:
    """Factors as those of `mf`, over an encoder."""
    epochs = 60 if text == "bag" else 20
    config = {"dim": 64, "reg": 1.2, "text": text, "columns": columns, "dropout": dropout, "content_epochs": epochs}
    return ConvMFConfig(**config), FACTORS  # type: ignore[arg-type]


CHOICES: dict[str, list[Choice]] = {
    "global mean": [(BiasConfig(user_shrink=NO_BIAS, item_shrink=NO_BIAS), PLAIN)],
    "user mean": [(BiasConfig(user_shrink=u, item_shrink=NO_BIAS), PLAIN) for u in (3.0, 5.0, 10.0)],
    "bias": [(BiasConfig(user_shrink=u, item_shrink=3.0), PLAIN) for u in (3.0, 5.0, 10.0)],
    "mf": [
        (MFConfig(loss="mse", dim=64, init=0.02, reg=r, bias_reg=0.5, reg_power=0.5), FACTORS) for r in (0.8, 1.0, 1.2)
    ],
    "convmf, plot": [convmf("cnn", "plot")],
    "convmf, all columns": [convmf("bag", *WORDS, dropout=d) for d in (0.3, 0.5)],
    "deepfm": [(DeepFMConfig(loss="mse", id_dropout=0.3, dropout=0.2), NET)],
}
"""Settings that each model may try."""
MORE = {"mf": 2, "convmf, plot": 10, "convmf, all columns": 10}
"""About so many more were tried on the first seed's valid part before the model's code and these settings stood."""
SAME = {"global mean": UserBias, "user mean": UserBias, "bias": UserBias}
SLICES = {"new_item": "new items", "warm": "known items"}
PARTS = ("new_item", "warm", "all")


def ratings() -> Dataset:
    """All ratings, what is known of the films but their posters, and of the people."""
    _, films, kinds = ml_1m()
    people = pl.read_parquet(real_data("ml-1m") / "users.parquet")
    return Dataset.read(
        pl.read_parquet(real_data("ml-1m") / "ratings.parquet").select("user_id", "item_id", "rating"),
        items=films.select("item_id", *WORDS),
        users=people.select("user_id", pl.col(PEOPLE).cast(pl.String)),
        item_kinds={name: kind for name, kind in kinds.items() if name in WORDS},
        user_kinds=dict.fromkeys(PEOPLE, "category"),
        rating_scale=(1.0, 5.0),
    )


class Work:
    """Runs of one seed, kept in a folder.

    Args:
        data: All ratings.
        seed: Decides which items are new.
        keep: Folder.
    """

    def __init__(self, data: Dataset, seed: int, keep: Path) -> None:
        self.seed = seed
        self.parts: Split = data.split("new-items", valid=0.1, test=0.1, others=0.1, seed=seed)
        self.kept = Kept(keep / str(seed))

    def run(self, name: str, number: int, choice: Choice, test: bool) -> tuple[float, Evaluation | None]:
        """The rmse on valid and, if asked for, the evaluation on test, of one setting."""
        found = self.kept.get(
            f"{name}-{number}", test, lambda: self._fit(name, choice),
            lambda model, _: evaluate(model, self.parts.test, ("rmse",), name=name).to_dict(),
        )  # fmt: skip
        return found["valid"]["all"], Evaluation.from_dict(found["test"]) if found["test"] else None

    def _fit(self, name: str, choice: Choice) -> tuple[dict[str, Any], Any]:
        """What valid says, and the model."""
        config, training = choice
        train, valid = self.parts.train, self.parts.valid
        kind: Any = SAME.get(name) or MODELS[name.partition(",")[0]]
        model = kind(config, train.feature_spec if name in SAME else kind.spec_of(train))
        # Factors are chosen by known items: of new ones mf knows nothing, and convmf's encoder watches its own.
        watched = valid if name == "deepfm" else valid.take(valid.item < train.n_items)
        records = model.fit(train, replace(training, seed=self.seed), Validator(watched, model, "rmse"))
        on_valid = evaluate(model, valid, ("rmse",)).slices
        told = {part: on_valid[part].estimates["rmse"].value for part in PARTS}
        return {"valid": told, "epochs": len(records), "test": None}, model


def main() -> None:
    """Print the table and write it down."""
    given = asked(arguments(__doc__, CHOICES))
    data = ratings()
    works = [Work(data, seed, given.keep) for seed in given.seeds]
    found: dict[str, list[Evaluation]] = {}
    chosen = []
    for name in given.models or CHOICES:
        valid = [works[0].run(name, number, choice, test=False)[0] for number, choice in enumerate(CHOICES[name])]
        best = int(np.argmin(valid))
        runs = [work.run(name, best, CHOICES[name][best], test=True)[1] for work in works]
        found[name] = [run for run in runs if run is not None]
        tried = len(valid) + MORE.get(name, 0)
        chosen.append(f"{name}: {tried} tried, rmse on valid {min(valid):.4f}; {CHOICES[name][best][0]}")
    rows = [[name, *(student([value(run, part) for run in runs]) for part in SLICES)] for name, runs in found.items()]
    counts = found[next(iter(found))][0].slices
    about = [
        f"Data: MovieLens-1M, ratings; a fifth of the items new, half of them valid's; seeds {given.seeds}.",
        f"Test of the first seed: {counts['new_item'].rows:,} ratings of new items, {counts['warm'].rows:,} of others.",
        f"Protocol hashes (first seed first): {', '.join(run.protocol.hash for run in found[next(iter(found))])}.",
        f"Intervals: 95 %, Student's t over {len(works)} seeds; differences paired.",
        "Settings: least rmse on all of the first seed's valid part; epochs: on each seed's own.",
        *chosen,
        *told(found),
    ]
    header = ["model", *(f"rmse, {what}" for what in SLICES.values())]
    write_result("cold_ratings", "Ratings of new items, MovieLens-1M", about, header, rows)


def value(run: Evaluation, part: str) -> float:
    """The rmse on one kind of rows."""
    return run.slices[part].estimates["rmse"].value


def told(found: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """In words: how each model stands to those that know people alone, on new items, and to mf on known ones."""
    lines = []
    for part, base in (("new_item", "user mean"), ("new_item", "bias"), ("warm", "mf")):
        if base not in found or len(found) < 2:
            continue
        lines.append(f"{SLICES[part].capitalize()}, rmse less that of {base}; and the first seed's by users:")
        verdicts = compare({name: runs[0] for name, runs in found.items()}, "rmse", base, part).differences
        for difference in verdicts:
            pairs = zip(found[difference.first], found[base], strict=True)
            less = student([value(run, part) - value(other, part) for run, other in pairs])
            lines.append(f"{difference.first}: {less}; {difference.verdict}")
    return lines


if __name__ == "__main__":
    main()
