"""Ranked lists of neural models and of the baselines that they must beat, under a named protocol.

    python benchmarks/rankings.py --data ml-1m-anelli [--models ease multvae ...] [--keep FOLDER] [--threads 1]
    python benchmarks/rankings.py --data lastfm-2k
    python benchmarks/rankings.py --data ml-100k

Every model may try two or three settings, judged on the first split's valid part; the best is then fitted on each
split, its epochs chosen on that split's valid part, and judged on test once (under anelli it is first fitted anew on
train and valid together). Popularity has no setting. With a folder to keep them in, runs that are done are not done
again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import real_data, student, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.evaluation.protocols import Prepared, prepare
from palate.models import MODELS
from palate.models.autoencoders.cdae import CDAEConfig
from palate.models.autoencoders.multvae import MultDAEConfig, MultVAEConfig
from palate.models.autoencoders.recvae import RecVAEConfig
from palate.models.baselines.popularity import PopularityConfig
from palate.models.linear.ease import EASEConfig, EDLAEConfig
from palate.models.mf.ials import IALSConfig
from palate.models.mf.mf import MFConfig
from palate.models.ncf.ncf import GMFConfig, NeuMFConfig
from palate.models.neighbours.knn import ItemKNNConfig

Choice = tuple[Any, Training]
PLAIN = Training()


def auto(epochs: int, batch: int, lr: float, decay: float = 0.0, patience: int = 10) -> Training:
    """How an autoencoder is trained: rows are users."""
    return Training(epochs=epochs, batch_size=batch, lr=lr, weight_decay=decay, patience=patience)


def ncf(lr: float, decay: float, batch: int = 2048) -> Training:
    """How an NCF or an MF is trained: rows are interactions."""
    return Training(epochs=60, batch_size=batch, lr=lr, weight_decay=decay, patience=5)


def closed(eases: Sequence[float], ials: Sequence[tuple[float, float]], dim: int, knn: int) -> dict[str, list[Choice]]:
    """Settings of each model without gradient steps."""
    return {
        "popularity": [(PopularityConfig(), PLAIN)],
        "itemknn": [(ItemKNNConfig(k=knn, shrink=10.0, weighting=w), PLAIN) for w in ("cosine", "tfidf", "bm25")],
        "ease": [(EASEConfig(reg=reg), PLAIN) for reg in eases],
        "edlae": [(EDLAEConfig(reg=reg / 3, dropout=0.3), PLAIN) for reg in eases],
        "ials": [(IALSConfig(dim=dim, alpha=alpha, reg=reg), PLAIN) for alpha, reg in ials],
    }


RECVAE = ((0.5, 256, 5e-4), (0.6, 64, 1e-3))
ML_1M = closed((150.0, 300.0, 600.0), ((0.65, 0.27), (1.3, 0.48), (2.6, 0.9)), 128, 100) | {
    "multdae": [(MultDAEConfig(dropout=d), auto(60, 256, 1e-3, patience=5)) for d in (0.5, 0.7)],
    "multvae": [(MultVAEConfig(beta=b), auto(100, 512, 3e-3)) for b in (0.2, 0.5)],
    "recvae": [(RecVAEConfig(gamma=0.0035, dropout=d), auto(40, n, lr, patience=5)) for d, n, lr in RECVAE],
    "neumf": [(NeuMFConfig(dim=64, loss="bce"), ncf(2e-3, w)) for w in (0.3, 0.6)],
    "mf": [(MFConfig(dim=64, negatives=8, reg=r), ncf(3e-3, 0.0, 8192)) for r in (0.001, 0.003, 0.01)],
}
ML_100K = closed((100.0, 200.0, 400.0), ((0.9, 0.2), (2.2, 0.42), (4.4, 0.8)), 32, 100) | {
    "multdae": [(MultDAEConfig(dropout=d), auto(150, 64, 1e-3, w)) for d, w in ((0.5, 0.0), (0.5, 1e-2), (0.7, 0.0))],
    "multvae": [(MultVAEConfig(dim=d), auto(100, 512, lr)) for d, lr in ((64, 3e-3), (64, 2e-3), (32, 3e-3))],
    "recvae": [(RecVAEConfig(gamma=g), auto(100, 128, 5e-4)) for g in (0.002, 0.0035, 0.005)],
    "cdae": [(CDAEConfig(dropout=d, negatives=50), auto(100, 256, 5e-3, patience=8)) for d in (0.3, 0.5, 0.7)],
    "gmf": [(GMFConfig(dim=64, loss="bce", dropout=0.1), ncf(5e-3, w, 1024)) for w in (0.1, 0.3, 1.0)],
    "neumf": [(NeuMFConfig(dim=64, loss="bce", dropout=0.1), ncf(5e-3, w, 1024)) for w in (0.1, 0.3, 1.0)],
    "mf": [(MFConfig(dim=64, negatives=8, reg=r), ncf(5e-3, 0.0)) for r in (0.003, 0.01, 0.03)],
}
LASTFM = closed((50.0, 150.0, 400.0), ((0.4, 0.14), (1.2, 0.4), (4.0, 1.3)), 128, 200) | {
    "mf": [(MFConfig(loss="bpr", dim=64, negatives=4, reg=r), ncf(5e-3, 0.0)) for r in (0.003, 0.01, 0.03)],
    "multdae": [(MultDAEConfig(dropout=d), auto(100, 64, 1e-3, w)) for d, w in ((0.5, 0.0), (0.5, 1e-2), (0.7, 0.0))],
    "multvae": [(MultVAEConfig(beta=b), auto(100, 512, 3e-3)) for b in (0.1, 0.2, 0.5)],
}


def table(folder: str, file: str = "ratings.parquet") -> Dataset:
    """A real data set, all its rows."""
    return Dataset.read(real_data(folder) / file)


def lastfm() -> Dataset:
    """Who listened to whom; the counts of plays are left aside, as in the published table."""
    return Dataset.from_frame(
        pl.read_parquet(real_data("lastfm-2k") / "user_artists.parquet").select("user_id", "item_id")
    )


@dataclass(frozen=True)
class Setting:
    """One data set under one protocol; `splits` are the protocol's folds, or seeds where it has none."""

    what: str
    protocol: str
    headline: str
    folds: bool
    choices: dict[str, list[Choice]]
    bars: str
    remark: str = "Fit times were taken beside other work."
    refit: bool = False
    """Whether the judged model is fitted anew on train and valid together, for the epochs that valid chose."""


DATA = {
    "ml-1m-anelli": Setting(
        "MovieLens-1M", "anelli", "ndcg@10", True, ML_1M,
        "popularity 0.162 +- 0.005; EASE 0.338; Mult-VAE 0.290; Mult-DAE 0.295; NeuMF 0.27 ndcg@10",
        "Fit times: beside other work. Test figures of multvae and recvae had been seen under other settings.",
        refit=True,
    ),
    "ml-100k": Setting(
        "MovieLens-100K", "80-10-10", "ndcg@10", False, ML_100K,
        "iALS 0.332; EASE or EDLAE 0.328; Mult-VAE 0.31; CDAE 0.297; NeuMF and GMF 0.287 ndcg@10",
        "Fit times: one thread, beside other work. More settings were tried before, on valid parts: some seventy of "
        "multvae, on all three splits' (docs/decisions/17-narrow-at-first.md), six of cdae; test figures of both had "
        "been seen under earlier ones.",
    ),
    "lastfm-2k": Setting(
        "LastFM-2k, plays as events", "80-10-10", "ndcg@10", False, LASTFM,
        "BPR 0.170 / 0.160; best of the others 0.206 / 0.197 recall@10 / ndcg@10",
    ),
}  # fmt: skip


def split(name: str, number: int) -> Prepared:
    """One split, from 0."""
    if name == "ml-1m-anelli":
        return prepare("anelli", table("ml-1m"), fold=number + 1)
    return prepare("80-10-10", table("ml-100k") if name == "ml-100k" else lastfm(), seed=number)


class Work:
    """Runs on one split, kept in a folder.

    Args:
        name: Key in `DATA`.
        number: Which split.
        keep: Folder.
    """

    def __init__(self, name: str, number: int, keep: Path) -> None:
        self.setting, self.number = DATA[name], number
        self.prepared = split(name, number)
        self.keep = keep / f"{name}-{number}"
        self.keep.mkdir(parents=True, exist_ok=True)

    def run(self, model: str, number: int, choice: Choice, test: bool) -> tuple[float, Evaluation | None]:
        """The headline on valid and, if asked for, the evaluation on test, of one setting."""
        file = self.keep / f"{model}-{number}.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if not found or (test and found["test"] is None):
            found = self._fit(model, choice, test)
            file.write_text(json.dumps(found))
            told = "" if found["test"] is None else ", judged on test"
            print(
                f"{self.number} {model} {number}: valid {found['valid']:.4f}, {found['epochs']} epochs{told}",
                flush=True,
            )
        return found["valid"], None if found["test"] is None else Evaluation.from_dict(found["test"])

    def _fit(self, model: str, choice: Choice, test: bool) -> dict[str, Any]:
        config, training = choice
        parts = self.prepared.parts
        fitted = MODELS[model](config, parts.train.spec)
        watch = Validator(parts.valid, fitted, self.setting.headline)
        start = time.perf_counter()
        records = fitted.fit(parts.train, replace(training, seed=self.number), watch)
        seconds = time.perf_counter() - start
        best = max(records, key=lambda record: record.valid[self.setting.headline], default=None)
        value, judged = watch(fitted)[self.setting.headline], None
        if test and self.setting.refit:
            whole = parts.test.history
            assert whole is not None  # it is a part of a split
            fitted = MODELS[model](config, whole.spec)
            start = time.perf_counter()
            fitted.fit(whole, replace(training, seed=self.number, epochs=best.epoch if best else 1))
            seconds = time.perf_counter() - start
        if test:
            judged = evaluate(
                fitted, parts.test, protocol=self.prepared.protocol, candidates=self.prepared.candidates,
                name=model, fit_seconds=seconds,
            ).to_dict()  # fmt: skip
        return {
            "valid": value,
            "epochs": best.epoch if best else 1,
            "test": judged,
        }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(DATA), required=True)
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--keep", type=Path, default=Path("runs") / "rankings")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    setting = DATA[given.data]
    models = given.models or list(setting.choices)
    works = [Work(given.data, number, given.keep) for number in range(given.splits)]
    found: dict[str, list[Evaluation]] = {}
    chosen = []
    for model in models:
        choices = setting.choices[model]
        valid = [works[0].run(model, number, choice, test=False)[0] for number, choice in enumerate(choices)]
        best = int(np.argmax(valid))
        judged = [work.run(model, best, choices[best], test=True)[1] for work in works]
        found[model] = [each for each in judged if each is not None]
        chosen.append(f"{model}: {len(choices)} tried, valid {max(valid):.4f}; {choices[best][0]}")
    metrics = [
        setting.headline,
        *(m for m in ("recall@10", "coverage@10", "gini@10") if m in found[models[0]][0].estimates),
    ]
    order = sorted(models, key=lambda model: -float(np.mean([each[setting.headline].value for each in found[model]])))
    rows = [
        [
            model,
            *(student([each[metric].value for each in found[model]]) for metric in metrics),
            *(f"{np.mean([each.seconds[kind] for each in found[model]]):.1f}" for kind in ("fit", "predict")),
        ]
        for model in order
    ]
    first = {model: found[model][0] for model in order}
    verdicts = [difference.verdict for difference in compare(first, setting.headline).differences]
    hashes = ", ".join(each.protocol.hash for each in found[models[0]])
    about = [
        f"Data: {setting.what}; protocol {setting.protocol}; bars: {setting.bars}.",
        f"Protocol hashes: {hashes}. Intervals: 95 %, Student's t over {given.splits} splits.",
        "Settings: best of those tried on the first split's valid part; epochs: on each split's own. Times in seconds.",
        setting.remark,
        *chosen,
        "Pairs on the first split, by users, Holm-corrected:",
        *verdicts,
    ]
    title = f"Ranked lists: {setting.what}, {setting.protocol}"
    write_result(f"rankings_{given.data.replace('-', '_')}", title, about, ["model", *metrics, "fit", "predict"], rows)


if __name__ == "__main__":
    main()
