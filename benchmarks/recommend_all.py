"""How much dearer are lists for everybody in a file than bare products and `torch.topk`, and in what memory?

    python benchmarks/recommend_all.py [--users 138493 --items 26744 --dim 64 --seen 144 --threads 2 --repeats 3]

Random factors and histories in the shape of MovieLens-20M, in a saved run. Each repeat is two processes that load it:
one multiplies and calls `topk` in the same blocks of users, the other calls `recommend_all` into Parquet (seen items
masked, ties settled, ids translated). CPU seconds are those of all threads without loading, memory is the peak of the
whole process, loading included. Bars: ratio 1.5, 1.5 GB.

With `--ml1m`: `recommend_all` of iALS on MovieLens-1M, wall and CPU seconds after loading. Bar: 5 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import median_cell, peak_bytes, real_data, write_result
from torch import Tensor

from palate.config import CompleteTraining
from palate.data.dataset import Dataset, Queries, Spec
from palate.models import MODELS
from palate.models.base import Model
from palate.ranking.topk import block_rows
from palate.recommender.recommender import Recommender
from palate.training.loop import Epoch, TrainRun


class Factors(Model):
    """Random factors; score(u, i) = p_u . q_i."""

    @dataclass(frozen=True)
    class Config:
        dim: int

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("p", torch.randn(spec.n_users, config.dim, generator=generator))
        self.register_buffer("q", torch.randn(spec.n_items, config.dim, generator=generator))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        return []

    def _score(self, queries: Queries) -> Tensor:
        return self.p[queries.user] @ self.q.T


def made(given: argparse.Namespace) -> Recommender:
    """A recommender of random factors, with random histories."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(20, 2 * given.seen - 20, given.users)
    user = np.repeat(np.arange(given.users, dtype=np.int64), lengths)
    item = rng.integers(0, given.items, len(user))
    pair = np.unique(user * given.items + item)
    rows = pl.DataFrame({"user_id": pair // given.items, "item_id": pair % given.items})
    data = Dataset.from_frame(rows)
    spec = Spec(n_users=data.n_users, n_items=data.n_items)
    model = Factors(Factors.Config(given.dim), spec).eval()
    return Recommender(name="factors", model=model, data=data, training=CompleteTraining(), records=[])


def bare(model: Factors) -> None:
    """The products and the k best of each user, in blocks of the same size."""
    step = block_rows(model.spec.n_items)
    for start in range(0, model.spec.n_users, step):
        (model.p[start : start + step] @ model.q.T).topk(10)


def child(given: argparse.Namespace) -> None:
    """One measurement in this process; prints CPU seconds, wall seconds and peak bytes."""
    torch.set_num_threads(given.threads)
    rec = Recommender.load(given.run, models={**MODELS, "factors": Factors})
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        if given.child == "bare":
            bare(rec.model)  # type: ignore[arg-type]
        else:
            rec.recommend_all(Path(folder, "lists.parquet"))
        peak = peak_bytes()
        print(time.process_time() - cpu, time.perf_counter() - wall, peak)


def measured(kind: str, run: str) -> tuple[float, float, float]:
    """What `child` prints in a process of its own, which loads the run."""
    words = [sys.executable, __file__, *sys.argv[1:], "--child", kind, "--run", run]
    cpu, wall, peak = map(float, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    return cpu, wall, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shape = {"users": 138_493, "items": 26_744, "dim": 64, "seen": 144, "threads": 2, "repeats": 3}
    for name, default in shape.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ml1m", action="store_true")
    parser.add_argument("--child", choices=["bare", "file"])
    parser.add_argument("--run")
    given = parser.parse_args()
    if given.child:
        child(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        compared(given, str(Path(folder, "run")))


def compared(given: argparse.Namespace, run: str) -> None:
    """Make a run, measure, and write the table."""
    if given.ml1m:
        data = Dataset.read(real_data("ml-1m") / "ratings.parquet")
        Recommender.train(data, "ials", seed=0).save(run)
        runs = [measured("file", run) for _ in range(given.repeats)]
        write_result(
            "recommend_all_ml1m",
            "Lists of all users of MovieLens-1M into Parquet",
            [f"iALS, k = 10, {given.threads} threads, after loading and training; {given.repeats} processes, median "
             "(least to most). Bar: 5 s."],
            ["wall, s", "CPU, s"],
            [[median_cell([one[1] for one in runs]), median_cell([one[0] for one in runs])]],
        )  # fmt: skip
        return
    made(given).save(run)
    runs = [(measured("bare", run), measured("file", run)) for _ in range(given.repeats)]
    ratios = [file[0] / plain[0] for plain, file in runs]
    cells = [
        median_cell([plain[0] for plain, _ in runs]), median_cell([file[0] for _, file in runs]), median_cell(ratios),
        median_cell([file[1] for _, file in runs]), median_cell([plain[2] / 1e9 for plain, _ in runs]),
        median_cell([file[2] / 1e9 for _, file in runs]),
    ]  # fmt: skip
    write_result(
        "recommend_all",
        "Lists for everybody beside bare products and topk",
        [f"{given.users:,} users x {given.items:,} items, dim {given.dim}, k = 10, about {given.seen} seen items each, "
         f"{given.threads} threads; {given.repeats} interleaved repeats, median (least to most). "
         "Bars: ratio 1.5, 1.5 GB. Peaks include loading."],
        ["bare, CPU s", "recommend_all, CPU s", "ratio", "recommend_all, wall s", "bare, peak GB",
         "recommend_all, peak GB"],
        [cells],
    )  # fmt: skip


if __name__ == "__main__":
    main()
