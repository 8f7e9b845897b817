"""NeuMF on MovieLens-1M under the NCF paper's protocol: its leave-one-out file, 99 given negatives, HR@10, NDCG@10.

    python benchmarks/ncf_file_neumf.py [--seeds 0 1 2]

Epochs are chosen on train alone: each user's latest train row is the valid part, judged by ndcg@10 over all items; then
the net is trained anew on the whole train part for that many epochs, and the file's held-out items are judged once.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from common import real_data, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.evaluation.protocol import given_candidates
from palate.models.base import Model
from palate.models.baselines.popularity import Popularity
from palate.models.ncf.ncf import NeuMF, NeuMFConfig

CONFIG = NeuMFConfig(dim=64, mlp_dim=32, layers=(64, 32, 16), loss="bce", negatives=4)
TRAINING = Training(epochs=25, batch_size=2048, lr=2e-3, weight_decay=0.3, patience=4)
"""The better of two settings on the valid part: this one, and a larger net with a weight decay of 0.1."""
METRICS = ("hit@10", "ndcg@10")


def load() -> tuple[Dataset, Dataset, Ragged]:
    """Train, the held-out rows, and their 99 negatives."""
    folder = real_data("ml-1m")
    held = pl.read_parquet(folder / "ncf_leave_one_out.parquet")
    # `seq` settles the order of rows with one timestamp; the dataset keeps input order among equals.
    rows = pl.read_parquet(folder / "ratings.parquet").sort("user_id", "timestamp", "seq")
    data = Dataset.from_frame(rows.select("user_id", "item_id", "timestamp"))
    parts = held.select("user_id", "item_id", part=pl.lit("test"))
    parts = rows.select("user_id", "item_id").join(parts, on=["user_id", "item_id"], how="left")
    whole = data.split("predefined", parts=parts.with_columns(pl.col("part").fill_null("train")), valid=0.0)
    return whole.train, whole.test, given_candidates(whole.test, held, "negatives")


def judge(model: Model, test: Dataset, candidates: Ragged) -> Evaluation:
    """HR@10 and NDCG@10 among the held-out item and its 99 negatives."""
    return evaluate(model, test, METRICS, candidates=candidates)


def fit(train: Dataset, seed: int) -> tuple[NeuMF, int, float]:
    """A net trained for the number of epochs that is best on valid, that number, and the ndcg@10 there."""
    training = replace(TRAINING, seed=seed)
    cut = train.split("leave-last-out", valid=0, test=1)  # its test part is our valid part
    tried = NeuMF(CONFIG, cut.train.spec)
    records = tried.fit(cut.train, training, Validator(cut.test, tried, "ndcg@10"))
    best = max(records, key=lambda record: record.valid["ndcg@10"])
    final = NeuMF(CONFIG, train.spec)
    final.fit(train, replace(training, epochs=best.epoch))
    return final, best.epoch, best.valid["ndcg@10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    train, test, candidates = load()
    popularity = Popularity(Popularity.Config(), train.spec)
    popularity.fit(train)
    rows, found = [], []
    runs: list[tuple[str, Any]] = [("popularity", None), *((f"neumf, seed {seed}", seed) for seed in given.seeds)]
    for name, seed in runs:
        start, model, epochs = time.perf_counter(), popularity, 0
        if seed is not None:
            model, epochs, valid = fit(train, seed)
            print(f"seed {seed}: {epochs} epochs, valid ndcg@10 {valid:.4f}", flush=True)
        result = judge(model, test, candidates)
        values = [result[metric] for metric in METRICS]
        found += [] if seed is None else [[each.value for each in values]]
        texts = [f"{each.value:.4f} ({each.low:.4f} to {each.high:.4f})" for each in values]
        rows.append([name, *texts, str(epochs or ""), f"{time.perf_counter() - start:.0f}"])
        print(rows[-1], flush=True)
    means = np.mean(found, axis=0)
    spread = np.std(found, axis=0, ddof=1) if len(found) > 1 else [0.0, 0.0]
    rows.append(
        ["neumf, mean (sd over seeds)", *(f"{m:.4f} ({s:.4f})" for m, s in zip(means, spread, strict=True)), "", ""]
    )
    about = [
        "Data: MovieLens-1M, the NCF paper's file: 6,040 held-out items, 99 negatives each; train is all other rows.",
        f"Protocol hash: {result.protocol.hash}. Intervals: 95 %, over users. Bars: 0.453; 0.695 / 0.425.",
        "Epochs: best ndcg@10 (all items) on each user's latest train row; then trained anew on all of train.",
        f"{CONFIG}; {TRAINING}",
    ]
    header = ["model", "HR@10", "NDCG@10", "epochs", "s"]
    write_result("ncf_file_neumf", "NeuMF under the NCF paper's protocol", about, header, rows)


if __name__ == "__main__":
    main()
