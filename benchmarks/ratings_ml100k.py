"""RMSE and MAE of `bias` and of `mf` (loss mse) on MovieLens-100K, folds u1 to u5.

    python benchmarks/ratings_ml100k.py [--seed 0]

For each fold, settings and epochs are those that do best on a tenth of its train part; the model is then fitted anew on
the whole train part with them, and judged once on the test part.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from common import real_data, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.parts import Split
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.models.base import Model
from palate.models.bias import Bias, BiasConfig
from palate.models.mf import MF, MFConfig

FOLDS = (1, 2, 3, 4, 5)
T_4 = 2.776
"""97.5 % point of Student's t with 4 degrees of freedom: five folds."""
BIAS = [BiasConfig(user_shrink=u, item_shrink=i) for u, i in product((3.0, 5.0, 8.0), (1.0, 3.0, 5.0))]
MSE = [MFConfig(loss="mse", dim=64, init=0.02, reg=r, bias_reg=0.5, reg_power=0.5) for r in (1.0, 1.2, 1.4)]
TRAINING = Training(epochs=100, batch_size=512, lr=0.05, optimizer="adagrad", embeddings="rowwise", patience=4)


def folds(fold: int, seed: int) -> tuple[Split, Split]:
    """The fold twice: train cut into train and valid, and whole."""
    table = pl.read_parquet(real_data("ml-100k") / "ratings.parquet")
    data = Dataset.from_frame(table.drop("u_fold"), rating_scale=(1.0, 5.0))
    given = table.select("user_id", "item_id", "u_fold")
    cut, whole = (data.split("given", parts=given, fold=fold, valid=v, seed=seed) for v in (0.1, 0.0))
    return cut, whole


def choose(model: type[Model], configs: list[Any], cut: Split, training: Training) -> tuple[Any, int, float]:
    """Config and epochs that do best on the valid part, and their rmse there."""
    found = []
    for config in configs:
        fitted = model(config, cut.train.spec)
        records = fitted.fit(cut.train, training, Validator(cut.valid, fitted, "rmse"))
        best = min(records, key=lambda record: record.valid["rmse"], default=None)
        error = evaluate(fitted, cut.valid, ["rmse"])["rmse"].value
        found.append((error, best.epoch if best else 1, config))
    error, epochs, config = min(found, key=lambda each: each[0])
    return config, epochs, error


def judge(model: type[Model], configs: list[Any], fold: int, seed: int) -> tuple[Evaluation, str]:
    """The test part's evaluation, and what was chosen on the way."""
    training, start = replace(TRAINING, seed=seed), time.process_time()
    cut, whole = folds(fold, seed)
    config, epochs, valid = choose(model, configs, cut, training)
    final = model(config, whole.train.spec)
    final.fit(whole.train, replace(training, epochs=epochs))
    result = evaluate(final, whole.test, ["rmse", "mae"])
    chosen = f"valid rmse {valid:.4f}, {epochs} epochs, {config}"
    print(
        f"u{fold} {result.model}: rmse {result['rmse'].value:.4f}; {chosen}; {time.process_time() - start:.0f} CPU s",
        flush=True,
    )
    return result, chosen


def interval(values: list[float]) -> str:
    """Mean and 95 % interval over the folds."""
    half = T_4 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    mean = float(np.mean(values))
    return f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    start = time.process_time()
    runs = {
        name: [judge(model, configs, fold, seed) for fold in FOLDS]
        for name, model, configs in (("bias", Bias, BIAS), ("mf (mse)", MF, MSE))
    }
    values = {
        (name, metric): [result[metric].value for result, _ in found]
        for name, found in runs.items()
        for metric in ("rmse", "mae")
    }
    rows = [
        [name, metric, *(f"{v:.4f}" for v in column), interval(column)] for (name, metric), column in values.items()
    ]
    for metric in ("rmse", "mae"):
        less = [b - a for a, b in zip(values["bias", metric], values["mf (mse)", metric], strict=True)]
        rows.append(["mf - bias", metric, *(f"{v:+.4f}" for v in less), interval(less)])
    hashes = ", ".join(result.protocol.hash for result, _ in runs["bias"])
    about = [
        "Data: MovieLens-100K, the published folds u1 to u5; rmse and mae over all test ratings of a fold.",
        f"Protocol hashes, u1 to u5: {hashes}. Seed {seed}. Intervals: 95 %, Student's t over the five folds.",
        "Settings and epochs of each fold: the best on a random tenth of its train part; then one fit on all of train.",
        f"Searched: {len(BIAS)} settings of bias, {len(MSE)} of mf; {time.process_time() - start:.0f} CPU s in all.",
        *(f"u{fold} mf: {chosen}" for fold, (_, chosen) in zip(FOLDS, runs["mf (mse)"], strict=True)),
    ]
    header = ["model", "metric", *(f"u{fold}" for fold in FOLDS), "mean (95 % interval)"]
    write_result("ratings_ml100k", "Rating prediction on MovieLens-100K", about, header, rows)


if __name__ == "__main__":
    main()
