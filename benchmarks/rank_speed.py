"""How much dearer is `rank` (top 10, seen items masked, ties settled) than a bare matrix product and `torch.topk`?

    python benchmarks/rank_speed.py [--users 6040 --items 3706 --dim 64 --repeats 15 --threads 2]

Median times of both, repeats interleaved, and their ratio. Bar: 1.5.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from common import write_result
from torch import Tensor

from palate.data.dataset import Dataset, Queries, Spec
from palate.data.ragged import Ragged
from palate.models.base import Model
from palate.ranking.topk import rank
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (
        ("users", 6040),
        ("items", 3706),
        ("dim", 64),
        ("seen", 166),
        ("repeats", 15),
        ("threads", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = Factors(Factors.Config(given.dim), Spec(n_users=given.users, n_items=given.items)).eval()
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(20, 2 * given.seen - 20, (given.users,), generator=generator)
    seen = torch.randint(0, given.items, (int(lengths.sum()),), generator=generator)
    queries = Queries(torch.arange(given.users), Ragged.from_lengths(seen, lengths))

    def bare() -> None:
        (model.p @ model.q.T).topk(10)

    def full() -> None:
        rank(model, queries, 10)

    times: dict[str, list[float]] = {"bare": [], "rank": []}
    for repeat in range(given.repeats + 2):
        for name, run in (("bare", bare), ("rank", full)):
            start = time.perf_counter()
            run()
            if repeat >= 2:
                times[name].append(time.perf_counter() - start)
    ratios = [full / bare for bare, full in zip(times["bare"], times["rank"], strict=True)]
    cells = [
        f"{1e3 * statistics.median(values):.1f} ({1e3 * min(values):.1f} to {1e3 * max(values):.1f})"
        for values in times.values()
    ]
    write_result(
        "rank_speed",
        "Ranking beside a bare matrix product and topk",
        [
            f"{given.users:,} users x {given.items:,} items, dim {given.dim}, top 10, {len(seen):,} seen items masked, "
            f"{given.threads} threads; {given.repeats} interleaved repeats, median (least to most). Bar: 1.5."
        ],
        ["matmul + topk, ms", "rank, ms", "ratio"],
        [[*cells, f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]],
    )


if __name__ == "__main__":
    main()
