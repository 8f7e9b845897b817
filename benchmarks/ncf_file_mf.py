"""Logistic MF on MovieLens-1M under the NCF paper's protocol: its leave-one-out file, 99 negatives, HR@10, NDCG@10.

    python benchmarks/ncf_file_mf.py [--seeds 0 1 2]

Epochs are chosen on train alone: each user's latest train row against 99 items the user does not have, as in the file;
then the model is trained anew on the whole train part for that many epochs, and the file's items are judged once.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import write_result
from ncf_file_neumf import METRICS, judge, load

from palate.config import Training
from palate.data.dataset import Dataset
from palate.evaluation.evaluate import evaluate
from palate.models.mf import MF, MFConfig
from palate.models.popularity import Popularity

CONFIG = MFConfig(dim=64, loss="bce", negatives=4, init=0.1, reg=0.0025, bias_reg=0.0025)
TRAINING = Training(epochs=28, batch_size=4096, lr=0.003, embeddings="dense", patience=4)


class LikeTheFile:
    """Judges on the valid part as the file judges on test: 99 negatives for each target, the same after each epoch."""

    metric = "ndcg@10"
    higher_is_better = True

    def __init__(self, valid: Dataset) -> None:
        self.valid = valid

    def __call__(self, model: Any) -> dict[str, float]:
        found = evaluate(model, self.valid, METRICS, candidates="uni99")
        return {metric: found[metric].value for metric in METRICS}


def fit(train: Dataset, seed: int) -> tuple[MF, str]:
    """A model trained for the number of epochs that is best on valid, and what was best there."""
    training = replace(TRAINING, seed=seed)
    cut = train.split("leave-last-out", valid=0, test=1)  # its test part is our valid part
    records = MF(CONFIG, cut.train.spec).fit(
        cut.train, training, LikeTheFile(cut.test), on_epoch=lambda record: print(record, flush=True)
    )
    best = max(records, key=lambda record: record.valid["ndcg@10"])
    final = MF(CONFIG, train.spec)
    final.fit(train, replace(training, epochs=best.epoch))
    return final, f"{best.epoch} (valid {best.valid['hit@10']:.4f} / {best.valid['ndcg@10']:.4f})"


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    train, test, candidates = load()
    rows, found = [], []
    for name, seed in [("popularity", None), *((f"mf (bce), seed {seed}", seed) for seed in seeds)]:
        start, epochs = time.process_time(), ""
        model: Any = Popularity(Popularity.Config(), train.spec)
        if seed is None:
            model.fit(train)
        else:
            model, epochs = fit(train, seed)
        seconds = time.process_time() - start
        result = judge(model, test, candidates)
        values = [result[metric] for metric in METRICS]
        found += [] if seed is None else [[each.value for each in values]]
        rows.append([name, *map(str, values), epochs, f"{seconds:.0f}"])
        print(rows[-1], flush=True)
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=1) if len(found) > 1 else np.zeros(2)
    summary = [f"{m:.4f} ({s:.4f})" for m, s in zip(mean, spread, strict=True)]
    rows.append(["mf (bce), mean (sd over seeds)", *summary, "", ""])
    about = [
        "Data: MovieLens-1M, the NCF paper's file: 6,040 held-out items, 99 negatives each; train is all other rows.",
        f"Protocol hash: {result.protocol.hash}. Intervals: 95 %, over users. Bars: 0.453 +- 0.005; 0.718 / 0.444.",
        "Epochs: best ndcg@10 on each user's latest train row among 99 negatives; then trained anew on all of train.",
        "Published (Rendle et al. 2020, plain SGD, dim 192, 256 epochs): 0.7294 / 0.4523.",
        f"{CONFIG}; {TRAINING}",
    ]
    header = ["model", "HR@10", "NDCG@10", "epochs", "CPU s, search and fit"]
    write_result("ncf_file_mf", "Logistic matrix factorization under the NCF paper's protocol", about, header, rows)


if __name__ == "__main__":
    main()
