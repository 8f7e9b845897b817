"""New items: what models find of items that nobody has had yet, alone and among the items that training saw.

    python benchmarks/cold_items.py --data ml-1m [--models content-knn two-tower ...] [--seeds 0 1 2] [--keep FOLDER]
    python benchmarks/cold_items.py --data citeulike-a

A fifth of the items is new: half of them for valid, half for test, with all their rows; the rows of the other items are
cut 8:1:1 (the protocol of ALDI). Lists are judged three times: new items alone, known items alone, all together; what
somebody has had is never listed. Every model may try a few settings, judged on the first seed's new items of valid; the
best is fitted for each seed, its epochs chosen on that seed's own, and judged on test once. `random` gives every item
the same score and gets its expected place; "shuffled" models read the content of another item, drawn at random: what is
left of their lists is not owed to pixels or words. Runs kept in a folder are not done again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import Kept, arguments, asked, student, write_result
from item_tables import WORDS, citeulike, ml_1m

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.demos.content import RandomConfig, RandomRanker
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.evaluation.result import estimate_means
from palate.models import MODELS
from palate.models.base import Model
from palate.models.content.cnn import ImageCNNConfig, TextCNNConfig
from palate.models.content.content_ials import ContentIALSConfig
from palate.models.content.content_knn import ContentKNNConfig
from palate.models.content.two_tower import TwoTowerConfig
from palate.models.hybrid.blend import BlendConfig, Member
from palate.models.hybrid.dropoutnet import DropoutNetConfig
from palate.models.hybrid.hybrid import HybridConfig
from palate.models.mf.ials import IALSConfig

SETS = ("new", "warm", "full")
METRICS = ("recall@20", "ndcg@20", "ndcg@10")
Choice = tuple[Any, Training]
PLAIN = Training()


def users(epochs: int, lr: float = 2e-3, patience: int = 4) -> Training:
    """How a model of histories is trained: rows are users."""
    return Training(epochs=epochs, batch_size=256, lr=lr, patience=patience)


def tower(*columns: str, **more: Any) -> Choice:
    """A content tower over iALS vectors that reads some columns."""
    return DropoutNetConfig(**({"dim": 128, "alpha": 1.3, "reg": 0.48, "columns": columns} | more)), users(40, 1e-3)


def routed(content: str, **ials: float) -> Choice:
    """iALS for known items, and for new ones a content model."""
    settings = ials if content == "content-ials" else None
    return HybridConfig(warm=Member(model="ials", config=ials), content=Member(model=content, config=settings)), PLAIN


def both(shrink: float, **ials: float) -> Choice:
    """Content neighbours and the linear map to iALS's vectors, weighted by what does best on valid."""
    mapped = Member(model="content-ials", config=ials | {"map_reg": 0.3, "shrink": shrink})
    return BlendConfig(members=(Member(model="content-knn", config={"shrink": shrink}), mapped)), PLAIN


FILMS = {"dim": 128, "alpha": 1.3, "reg": 0.48}
ML_1M: dict[str, list[Choice]] = {
    "random": [(RandomConfig(), PLAIN)],
    "ials": [(IALSConfig(**FILMS), PLAIN)],
    "content-knn": [(ContentKNNConfig(profile=p, number=n), PLAIN) for p in ("mean", "neighbours") for n in (0.2, 1.0)],
    "text-cnn": [(TextCNNConfig(columns=("plot",)), users(16, 3e-3, patience=6))],
    "image-cnn": [(ImageCNNConfig(columns=("poster",)), users(8, patience=3))],
    "two-tower": [(TwoTowerConfig(text="bag", columns=WORDS, id_dropout=d), users(30)) for d in (0.3, 0.6)],
    "dropoutnet": [tower(text="bag", columns=WORDS), tower(text="bag", columns=WORDS, boost=1.5)],
    "content-ials": [(ContentIALSConfig(**FILMS, map_reg=r), PLAIN) for r in (0.1, 0.3, 1.0, 3.0)],
    "blend": [both(1.0, **FILMS)],
    "hybrid": [routed("content-ials", **FILMS), routed("content-knn", **FILMS)],
}
ARTICLES = {"dim": 400, "alpha": 1.1, "reg": 0.16}
CITEULIKE: dict[str, list[Choice]] = {
    "random": [(RandomConfig(), PLAIN)],
    "ials": [(IALSConfig(**ARTICLES), PLAIN)],
    "content-knn": [
        (ContentKNNConfig(profile=p, shrink=s), PLAIN)
        for p, s in (("mean", 0.0), ("mean", 0.3), ("mean", 1.0), ("neighbours", 0.0))
    ],
    "dropoutnet": [
        (DropoutNetConfig(dim=200, alpha=a, reg=r, dropout=d), users(40))
        for a, r, d in ((2.2, 1.0, 0.3), (2.2, 1.0, 0.5), (0.43, 0.22, 0.3))
    ],
    "content-ials": [(ContentIALSConfig(**ARTICLES, map_reg=r, shrink=0.3), PLAIN) for r in (0.1, 0.3, 1.0, 3.0)],
    "blend": [both(0.3, **ARTICLES)],
    "hybrid": [routed("content-ials", **ARTICLES)],
}
"""Settings that each model may try."""
READERS = (
    "text-cnn, image-cnn: this is their third form. The first had no bias; on test, plots were no better than shuffled "
    "plots, and posters below random under one seed. With a counted bias plots beat shuffled plots, posters did not. "
    "What was added since (means over people, a measure of how divisive an item may be, statistics of all maps of the "
    "image CNN) was judged on valid alone, by recall@20 against random and shuffled content."
)
TOLD = {
    "content-ials": "content-ials: defaults and iALS's settings were searched before, on the first seed's valid part.",
    **dict.fromkeys(("text-cnn", "image-cnn"), READERS),
    "blend": "blend: weights chosen on each seed's new items of valid, members as chosen for themselves.",
}
"""What a reader must know of how settings came about."""


PLAINEST, DRAWS = "content-knn", 10
KINDS = {**MODELS, "random": RandomRanker}
ENCODERS = ("text-cnn", "image-cnn")
"""Models whose item vectors are kept, for benchmarks/cold_inputs.py."""
WATCHED = [MODELS[name] for name in (*ENCODERS, "two-tower", "blend")]
"""Models whose epochs or weights are chosen on valid's new items."""
DATA = {"ml-1m": (ml_1m, ML_1M), "citeulike-a": (citeulike, CITEULIKE)}


def parts_of(name: str, seed: int, draw: int | None = None, more: pl.DataFrame | None = None) -> Split:
    """New items for valid and for test, a tenth of all each; the other rows 8:1:1.

    Args:
        name: Key in `DATA`.
        seed: Decides which items are new.
        draw: Gives each new item the content of another, drawn with this number.
        more: An item table that takes the place of the data's own; its kinds are inferred.
    """
    rows, items, kinds = DATA[name][0]()
    if more is not None:
        items, kinds = more, {column: kind for column, kind in kinds.items() if column in more.columns}
    rng = np.random.default_rng(seed)
    ids = rows["item_id"].unique().sort().to_numpy()
    fate = pl.DataFrame({"item_id": ids, "part": rng.choice(["train", "valid", "test"], len(ids), p=[0.8, 0.1, 0.1])})
    if draw is not None:
        new = pl.col("item_id").is_in(fate.filter(pl.col("part") != "train")["item_id"].implode())
        strange = items.filter(new)
        mixed = strange.drop("item_id").sample(fraction=1.0, shuffle=True, seed=draw)
        items = pl.concat([items.filter(~new), strange.select("item_id").hstack(mixed)])
    rows = rows.join(fate.with_columns(pl.col("item_id").cast(rows.schema["item_id"])), on="item_id", how="left")
    drawn = pl.Series("drawn", rng.choice(["train", "valid", "test"], rows.height, p=[0.8, 0.1, 0.1]))
    rows = rows.with_columns(part=pl.when(pl.col("part") == "train").then(drawn).otherwise(pl.col("part")))
    data = Dataset.read(rows.drop("part"), items=items, item_kinds=kinds)
    return data.split("predefined", parts=rows, column="part", valid=0.0)


class Work:
    """Runs of one seed, kept in a folder.

    Args:
        name: Key in `DATA`.
        seed: Decides which items are new.
        keep: Folder.
    """

    def __init__(self, name: str, seed: int, keep: Path) -> None:
        self.name, self.seed = name, seed
        self.kept = Kept(keep / f"{name}-{seed}")

    def run(self, name: str, number: int, choice: Choice, test: bool) -> tuple[float, dict[str, Evaluation]]:
        """ndcg@20 on valid's new items and, if asked for, the evaluations on test, of one setting."""
        found = self.kept.get(
            f"{name}-{number}", test, lambda: self._fit(name, choice), lambda model, kept: self._test(model, name, kept)
        )
        return found["valid"], {kind: Evaluation.from_dict(each) for kind, each in found["test"].items()}

    @cached_property
    def parts(self) -> Split:
        """Train, valid and test."""
        return parts_of(self.name, self.seed)

    def _fit(self, name: str, choice: Choice) -> tuple[dict[str, Any], Model]:
        return fitted(KINDS[name], choice[0], replace(choice[1], seed=self.seed), self.parts)

    def _test(self, model: Model, name: str, kept: dict[str, Any]) -> dict[str, Any]:
        judged = {
            candidates: evaluate(
                model, self.parts.test, METRICS, candidates=candidates, name=name, fit_seconds=kept["seconds"]
            ).to_dict()
            for candidates in SETS
        }
        if name in ENCODERS:
            np.save(self.kept.folder / f"{name}.npy", grown(model, self.parts).item_vectors())
            judged["shuffled"] = self._shuffled(model, name).to_dict()
        return judged

    def _shuffled(self, model: Model, name: str) -> Evaluation:
        """Test's new items alone, by the content of others; each person's mean over the draws."""
        runs = []
        for draw in range(DRAWS):
            test = parts_of(self.name, self.seed, draw).test
            runs.append(evaluate(model, test, METRICS, candidates="new", name=f"{name}, shuffled"))
        whole = runs[0].slices["all"]
        values = {metric: np.mean([run.values[metric] for run in runs], axis=0) for metric in whole.values}
        every = replace(whole, values=values, estimates=estimate_means(values, whole.weights, 0))
        return replace(runs[0], slices={"all": every})


def fitted(kind: Any, config: Any, training: Training, parts: Split) -> tuple[dict[str, Any], Model]:
    """What is kept of a run, how it does on valid's new items among it, and the model that has learned from train."""
    model = kind(config, kind.spec_of(parts.train))
    watch = Validator(parts.valid.take(parts.valid.item >= parts.train.n_items), model, "ndcg@20")
    start = time.perf_counter()
    # iALS, the content tower and the hybrid choose by themselves, or have nothing to choose.
    records = model.fit(parts.train, training, watch if kind in WATCHED else None)
    seconds = time.perf_counter() - start
    return {"valid": watch(model)["ndcg@20"], "epochs": len(records), "seconds": seconds, "test": {}}, model


def grown(model: Model, parts: Split) -> Model:
    """A model that knows all items of the data, valid's and test's too."""
    features = model.spec.item_features
    assert features is not None  # content models alone are asked
    every = parts.test.encoded_items(features)
    return model.with_items(every.take(torch.arange(parts.train.n_items, parts.test.n_items)))


def main() -> None:
    """Print the table and write it down."""
    parser = arguments(__doc__, sorted({*ML_1M, *CITEULIKE}))
    parser.add_argument("--data", choices=list(DATA), required=True)
    given = asked(parser)
    choices = DATA[given.data][1]
    names = given.models or list(choices)
    works = [Work(given.data, seed, given.keep) for seed in given.seeds]
    found: dict[str, list[dict[str, Evaluation]]] = {}
    chosen = []
    for name in names:
        alone = len(choices[name]) == 1
        valid = [works[0].run(name, number, choice, test=alone)[0] for number, choice in enumerate(choices[name])]
        best = int(np.argmax(valid))
        found[name] = [work.run(name, best, choices[name][best], test=True)[1] for work in works]
        chosen.append(f"{name}: {len(valid)} tried, valid {max(valid):.4f}; {choices[name][best][0]}")
    for name in [name for name in names if "shuffled" in found[name][0]]:
        found[f"{name}, shuffled"] = [{"new": run["shuffled"]} for run in found[name]]
    rows = [[name, *(cell(found[name], kind, metric) for kind in SETS for metric in METRICS[:2])] for name in found]
    about = [
        f"Data: {given.data}; a fifth of the items new, half of them valid's; seeds {given.seeds}.",
        f"Protocol hashes (new, first seed first): {', '.join(each['new'].protocol.hash for each in found[names[0]])}.",
        f"Intervals: 95 %, Student's t over {len(works)} seeds.",
        *chosen,
        *dict.fromkeys(TOLD[name] for name in names if name in TOLD),
        *told(found),
    ]
    header = ["model", *(f"{kind}: {metric}" for kind in SETS for metric in METRICS[:2])]
    write_result(f"cold_items_{given.data.replace('-', '_')}", "New items", about, header, rows)


def cell(runs: Sequence[dict[str, Evaluation]], kind: str, metric: str) -> str:
    """A mean over seeds, with its interval."""
    return student([run[kind][metric].value for run in runs]) if kind in runs[0] else ""


def told(found: dict[str, list[dict[str, Evaluation]]]) -> list[str]:
    """In words: who beats content neighbours on new items, and what the lists of all items hold."""
    lines = ["New items, paired by users, Holm-corrected within a seed and baseline:"]
    encoders = [name for name in ENCODERS if name in found]
    rivals = {PLAINEST: list(found), "random": encoders} | {f"{name}, shuffled": [name] for name in encoders}
    for place in range(len(next(iter(found.values())))):
        runs = {name: each[place]["new"] for name, each in found.items()}
        for baseline in [name for name in rivals if name in found]:
            about = {name: runs[name] for name in dict.fromkeys((baseline, *rivals[baseline]))}
            differences = compare(about, "recall@20", baseline=baseline).differences if len(about) > 1 else []
            lines += [f"seed {place}: {each.verdict}" for each in differences]
    if "ials" in found:
        for name in [name for name in found if "full" in found[name][0]]:
            kept = [
                run["full"].slices["warm"].estimates["ndcg@10"].value
                / base["full"].slices["warm"].estimates["ndcg@10"].value
                for run, base in zip(found[name], found["ials"], strict=True)
            ]
            gained = [run["full"].slices["new_item"].estimates["recall@20"].value for run in found[name]]
            lines.append(
                f"All items, {name}: {student(kept)} of iALS's ndcg@10 on known items; recall@20 of new ones "
                f"{student(gained)}"
            )
    return lines


if __name__ == "__main__":
    main()
