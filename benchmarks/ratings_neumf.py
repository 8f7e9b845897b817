"""RMSE and MAE of `neumf` as a rating model (loss mse) beside `bias` on MovieLens-100K, folds u1 to u5.

    python benchmarks/ratings_neumf.py [--seed 0]

As in ratings_ml100k.py: for each fold, settings and epochs are those that do best on a tenth of its train part; the
model is then fitted anew on the whole train part with them, and judged once on the test part.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import torch
from common import write_result
from ratings_ml100k import BIAS, FOLDS, choose, folds, interval

from palate.config import Training
from palate.evaluation.evaluate import evaluate
from palate.models.bias import Bias
from palate.models.ncf import NeuMF, NeuMFConfig

NEUMF = [NeuMFConfig(loss="mse"), NeuMFConfig(loss="mse", dim=64, mlp_dim=64, layers=(128, 64))]
TRAINING = Training(epochs=40, batch_size=512, lr=2e-3, weight_decay=1.0, patience=4)
METRICS = ("rmse", "mae")


def judge(model: Any, configs: list[Any], fold: int, seed: int) -> tuple[dict[str, float], str, str]:
    """Metrics on the test part, what was chosen on the way, and the protocol's hash."""
    cut, whole = folds(fold, seed)
    training = replace(TRAINING, seed=seed)
    config, epochs, valid = choose(model, configs, cut, training)
    final = model(config, whole.train.spec)
    final.fit(whole.train, replace(training, epochs=epochs))
    result = evaluate(final, whole.test, METRICS)
    chosen = f"u{fold} {model.__name__}: valid rmse {valid:.4f}, {epochs} epochs, {config}"
    print(f"rmse {result['rmse'].value:.4f}; {chosen}", flush=True)
    return {metric: result[metric].value for metric in METRICS}, chosen, result.protocol.hash


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed, start = parser.parse_args().seed, time.perf_counter()
    torch.set_num_threads(1)
    bias = [judge(Bias, BIAS, fold, seed) for fold in FOLDS]
    neumf = [judge(NeuMF, NEUMF, fold, seed) for fold in FOLDS]
    rows = []
    for metric in METRICS:
        base, ours = ([values[metric] for values, *_ in runs] for runs in (bias, neumf))
        less = [b - a for a, b in zip(base, ours, strict=True)]
        for name, column in (("bias", base), ("neumf (mse)", ours), ("neumf - bias", less)):
            rows.append([name, metric, *(f"{value:.4f}" for value in column), interval(column)])
    about = [
        "Data: MovieLens-100K, the published folds u1 to u5; rmse and mae over all test ratings of a fold.",
        f"Protocol hashes, u1 to u5: {', '.join(found[2] for found in neumf)}. Seed {seed}.",
        "Intervals: 95 %, Student's t over the five folds; the difference is paired by fold.",
        "Settings and epochs: the best on a random tenth of a fold's train part; then one fit on all of train.",
        f"{time.perf_counter() - start:.0f} s in all, one thread.",
        f"{TRAINING}",
        *(chosen for _, chosen, _ in neumf),
    ]
    header = ["model", "metric", *(f"u{fold}" for fold in FOLDS), "mean (95 % interval)"]
    write_result("ratings_neumf", "NeuMF as a rating model on MovieLens-100K", about, header, rows)


if __name__ == "__main__":
    main()
