"""Over-fitting and its cures: NeuMF (loss mse) on MovieLens-100K with dropout, weight decay, early stopping.

    python benchmarks/regularisation.py [--seeds 0 1 2 --epochs 25]

The gap is what the model predicts worse on ratings it has not seen. Nothing is chosen on test: early stopping looks at
valid, the other rows train all epochs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import real_data, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.evaluation.evaluate import Validator
from palate.models.ncf.ncf import NeuMF, NeuMFConfig

PLAIN = Training(epochs=25, batch_size=512, lr=2e-3, weight_decay=0.0, patience=0)
DECAY = replace(PLAIN, weight_decay=1.0)
CASES: list[tuple[str, float, Training, bool]] = [
    ("nothing", 0.0, PLAIN, False),
    ("dropout 0.3", 0.3, PLAIN, False),
    ("weight decay 1.0", 0.0, DECAY, False),
    ("early stopping", 0.0, replace(PLAIN, patience=4), True),
    ("weight decay 1.0 + early stopping", 0.0, replace(DECAY, patience=4), True),
    ("all three", 0.3, replace(DECAY, patience=4), True),
]


def error(model: NeuMF, part: Dataset) -> float:
    """Mean squared error of predictions on the rows whose user and item the model knows."""
    known = part.take((part.user < model.spec.n_users) & (part.item < model.spec.n_items))
    history = known.history if known.history is not None else known
    people = replace(history, history=None).queries(np.arange(model.spec.n_users), model.spec)
    item, user = (torch.from_numpy(column.astype(np.int64)) for column in (known.item, known.user))
    return float((model.predict(people, item, user) - torch.from_numpy(np.asarray(known.rating))).square().mean())


def run(parts: Split, dropout: float, training: Training, watch: bool) -> tuple[float, float, int]:
    """Train and test error, and the epoch whose weights were kept."""
    model = NeuMF(NeuMFConfig(loss="mse", dropout=dropout), parts.train.spec)
    records: list[Any] = model.fit(parts.train, training, Validator(parts.valid, model, "rmse") if watch else None)
    kept = min(records, key=lambda record: record.valid["rmse"]).epoch if watch else records[-1].epoch
    return error(model, parts.train), error(model, parts.test), kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = Dataset.read(real_data("ml-100k") / "ratings.parquet", rating_scale=(1.0, 5.0))
    splits = [data.split("random", valid=0.1, test=0.1, seed=seed) for seed in given.seeds]
    rows = []
    for name, dropout, training, watch in CASES:
        found = np.array(
            [
                run(parts, dropout, replace(training, seed=seed, epochs=given.epochs), watch)
                for seed, parts in zip(given.seeds, splits, strict=True)
            ]
        )
        train, test, kept = found.T
        columns = [f"{each.mean():.3f} ({each.std():.3f})" for each in (train, test, test - train)]
        rows.append([name, *columns, f"{np.sqrt(test).mean():.4f}", ", ".join(str(int(epoch)) for epoch in kept)])
        print(rows[-1], flush=True)
    about = [
        f"Data: MovieLens-100K, 80/10/10 at random; NeuMF with loss mse; seeds {given.seeds} for split and training.",
        f"At most {given.epochs} epochs, batch 512, Adam with lr 0.002. Losses: mean squared error, mean (sd).",
        "Early stopping: the epoch with the best rmse on valid, patience 4. The others keep their last epoch.",
    ]
    header = ["cure", "train loss", "test loss", "gap", "test rmse", "epochs kept"]
    write_result("regularisation", "Over-fitting of NeuMF and its cures", about, header, rows)


if __name__ == "__main__":
    main()
