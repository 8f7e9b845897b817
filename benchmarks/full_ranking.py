"""How much dearer is a full evaluation (ndcg@10, recall@10, all items) than bare products and `torch.topk`?

    python benchmarks/full_ranking.py [--users 138493 --items 26744 --asked 20000 --threads 1 --repeats 3] [--models mf]

Random histories in the shape of MovieLens-20M, a tenth of each user's items held out. The models have their default
sizes and random weights: what they score does not matter. Each repeat is one process. It first (a) multiplies blocks of
the asked users with as many item vectors of the same width, and takes the 10 best by `torch.topk`. Then it (b)
evaluates these users by `palate.evaluation.evaluate` on the test part. Only (b) builds queries and histories, masks
seen items, settles ties and computes metrics. CPU seconds of all threads; the peak is that of the whole process. Bars:
ratio 1.5, 1.5 GB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from common import median_cell, peak_bytes, write_result

from palate.data.dataset import Dataset
from palate.data.store import open_dataset, save_dataset
from palate.evaluation.evaluate import evaluate
from palate.models import MODELS
from palate.models.base import GradientModel, Model
from palate.ranking.topk import block_rows

METRICS = ["ndcg@10", "recall@10"]
WIDTH = {"mf": "dim", "ials": "dim", "multvae": "hidden", "two-tower": "dim"}
"""Model -> the setting that is the width of the product over all items."""


def made(given: argparse.Namespace) -> Dataset:
    """A test part of the asked users; its history are the training rows."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 2 * given.seen - 20, given.users)
    user = np.repeat(np.arange(given.users, dtype=np.int64), lengths)
    pair = np.unique(user * given.items + rng.integers(0, given.items, len(user)))
    item = pl.DataFrame({"item_id": np.arange(given.items), "kind": rng.integers(0, 18, given.items)})
    rows = pl.DataFrame({"user_id": pair // given.items, "item_id": pair % given.items})
    data = Dataset.from_frame(rows, items=item, item_kinds={"kind": "category"})
    test = rng.random(len(data)) < 0.1
    train = data.take(~test)
    return replace(data.take(test & (data.user < given.asked)), history=train)


def untrained(name: str, train: Dataset) -> Model:
    """A model with random weights."""
    torch.manual_seed(0)
    spec = train.feature_spec if name == "two-tower" else train.spec
    model = MODELS[name](MODELS[name].Config(), spec)
    model.fallback.learn(train)
    with torch.no_grad():
        if isinstance(model, GradientModel):
            model.init_from_data(train)
        for table in (*model.parameters(), *model.buffers(recurse=False)):
            if table.ndim == 2:
                table.normal_(std=0.1)  # some begin with zeros, and all items would be tied
    return model.eval()


def width(model: Model, name: str) -> int:
    """Of the product over all items."""
    return int(getattr(model.config, WIDTH[name]))


def bare(user_UD: torch.Tensor, item_ND: torch.Tensor) -> None:
    """The products and the 10 best of each user, in blocks as `evaluate` takes them."""
    for user_BD in user_UD.split(block_rows(len(item_ND))):
        (user_BD @ item_ND.T).topk(10)


def child(given: argparse.Namespace) -> None:
    """Both measurements of one model in this process; prints CPU seconds of each and the peak bytes."""
    torch.set_num_threads(given.threads)
    test = open_dataset(given.folder)
    assert test.history is not None
    train, model = test.history, untrained(given.child, test.history)
    generator = torch.Generator().manual_seed(2)
    user_UD = torch.randn(given.asked, width(model, given.child), generator=generator)
    item_ND = torch.randn(given.items, user_UD.shape[1], generator=generator)
    evaluate(model, replace(test.take(test.user < 100), history=train), METRICS)
    start = time.process_time()
    bare(user_UD, item_ND)
    middle = time.process_time()
    evaluate(model, test, METRICS)
    end = time.process_time()
    print(middle - start, end - middle, peak_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shape = {"users": 138_493, "items": 26_744, "asked": 20_000, "seen": 144, "threads": 1, "repeats": 3}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", nargs="+", choices=list(WIDTH), default=list(WIDTH))
    parser.add_argument("--child", choices=list(WIDTH))
    parser.add_argument("--folder")
    given = parser.parse_args()
    if given.child:
        child(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_dataset(made(given), Path(folder, "data"))
        compared(given, str(Path(folder, "data")))


def compared(given: argparse.Namespace, folder: str) -> None:
    """Measure all models, and write the table."""
    rows = []
    for name in given.models:
        runs = []
        for _ in range(given.repeats):
            words = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--folder", folder]
            runs.append([float(x) for x in subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout.split()])
        plain, ours, peak = zip(*runs, strict=True)
        ratio = [one / other for one, other in zip(ours, plain, strict=True)]
        rows.append(
            [name, median_cell(list(plain)), median_cell(list(ours)), median_cell(ratio), f"{max(peak) / 1e9:.2f}"]
        )
        print(*rows[-1], sep=" | ", flush=True)
    about = [
        f"{given.users:,} users, about {given.seen} items each, {given.items:,} items; {given.asked:,} evaluated, "
        f"{', '.join(METRICS)}, all items are candidates. {given.threads} threads, {given.repeats} processes for each "
        "model, median (least to most). Bars: ratio 1.5, 1.5 GB. The peak includes opening the data.",
    ]
    header = ["model", "bare product and topk, CPU s", "evaluate, CPU s", "ratio", "peak, GB"]
    write_result("full_ranking", "Full ranking beside bare products and topk", about, header, rows)


if __name__ == "__main__":
    main()
