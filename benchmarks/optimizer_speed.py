"""What a training step costs as the catalogue grows: dense Adam, rows of the batch, FBGEMM's kernel.

    python benchmarks/optimizer_speed.py [--repeats 5] [--threads 2] [--batch 2048]
    python benchmarks/optimizer_speed.py --crossover     where touching all rows stops being cheaper (`auto`'s rule)

The net is an NCF: user and item vectors of 32 for the product and 32 for the MLP (64-32-16), as `palate`'s NeuMF lays
them out (one table of 64 for each side), or as four tables of 32 (`--tables 4`), or the MLP alone (`--net mlp`).
Users make up two thirds of the rows. Rows are drawn uniformly, the worst case for memory. Steps run through
`palate.training.loop.run`; all settings take turns in each repeat, and the table gives medians. With one thread the
process's own CPU time is counted, which other processes disturb less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch
import torch.nn.functional as F
from common import write_result
from torch import Tensor, nn

from palate.config import CompleteTraining
from palate.training.loop import run
from palate.training.train_run import TrainRun

ROWS = (10_000, 165_000, 1_500_000)
WAYS = {
    "dense Adam": {"optimizer": "adam", "embeddings": "dense"},
    "rows, Adam": {"optimizer": "adam", "embeddings": "rowwise"},
    "rows, Adagrad": {"optimizer": "adagrad", "embeddings": "rowwise"},
    "rows, SGD": {"optimizer": "sgd", "embeddings": "rowwise"},
    "FBGEMM, Adagrad": {"optimizer": "adagrad", "embeddings": "fbgemm"},
}
SECONDS = 0.5
"""Least time of one measurement."""


class NCF(nn.Module):
    """Product and MLP side by side, or the MLP alone, over two tables or four."""

    def __init__(self, rows: int, net: str, tables: int) -> None:
        super().__init__()
        self.product = net == "neumf"
        self.n_users, self.n_items = rows * 2 // 3, rows - rows * 2 // 3
        widths = [32] if not self.product else [64] if tables == 2 else [32, 32]
        self.user = nn.ModuleList(nn.Embedding(self.n_users, width) for width in widths)
        self.item = nn.ModuleList(nn.Embedding(self.n_items, width) for width in widths)
        layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(16 + 32 * self.product, 1)

    def batches(self, context: Context, rng: torch.Generator, size: int) -> Iterator[Pairs]:
        for _ in range(len(context.data) // size):
            user = torch.randint(self.n_users, (size,), generator=rng)
            item = torch.randint(self.n_items, (size,), generator=rng)
            yield Pairs(size, user, item, (user + item) % 2.0)

    def loss(self, batch: Pairs, context: Context) -> Tensor:
        user = torch.cat([table(batch.user) for table in self.user], 1)
        item = torch.cat([table(batch.item) for table in self.item], 1)
        hidden = self.layers(torch.cat([user[:, -32:], item[:, -32:]], 1))
        if self.product:
            hidden = torch.cat([user[:, :32] * item[:, :32], hidden], 1)
        return F.binary_cross_entropy_with_logits(self.head(hidden).squeeze(1), batch.label)


class Pairs:
    """So many labelled pairs; as data only their number counts."""

    def __init__(self, count: int, *columns: Tensor) -> None:
        self.count = count
        if columns:
            self.user, self.item, self.label = columns

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Context:
    """What the loop hands to `batches` and `loss`."""

    data: Pairs


class Case:
    """One way at one size; keeps its net, so that turns can be taken."""

    def __init__(self, way: dict[str, str], rows: int, given: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.net = NCF(rows, given.net, given.tables)
        self.training = CompleteTraining(batch_size=given.batch, epochs=2, patience=0, lr=1e-3, **way)
        self.steps = 4
        self.speed()
        while self.seconds < SECONDS and self.steps < 4096:
            self.steps *= 2
            self.speed()

    def speed(self) -> float:
        """Samples a second in the second of two epochs; the first touches memory and fills caches."""
        rng = torch.Generator().manual_seed(int(time.time()))
        data = Pairs(self.steps * self.training.batch_size)
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        ends: list[float] = []
        run(self.net, Context(data), TrainRun(training=self.training, rng=rng, on_epoch=lambda _: ends.append(clock())))
        self.seconds = ends[1] - ends[0]
        return len(data) / self.seconds


def compare(given: argparse.Namespace) -> None:
    """All ways at all sizes."""
    ways = dict(WAYS)
    if importlib.util.find_spec("fbgemm_gpu") is None:
        del ways["FBGEMM, Adagrad"]
        print("FBGEMM is not installed: left out")
    found: dict[tuple[str, int], list[float]] = {(name, rows): [] for name in ways for rows in ROWS}
    for _ in range(given.repeats):
        for name, way in ways.items():
            for rows in ROWS:
                found[name, rows].append(Case(way, rows, given).speed())
                gc.collect()
    speeds = {key: median(values) for key, values in found.items()}
    few, many = ROWS[0], ROWS[-1]
    lines = []
    for name in ways:
        cells = [f"{speeds[name, rows]:,.0f}" for rows in ROWS]
        ratios = [big / small for small, big in zip(found[name, few], found[name, many], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append([name, *cells, spread, f"{speeds[name, many] / speeds['dense Adam', many]:.1f}"])
    suffix = "" if (given.net, given.tables) == ("neumf", 2) else f"_{given.net}_{given.tables}"
    suffix += "_one_thread" if given.threads == 1 else ""
    write_result(
        f"optimizer_speed{suffix}",
        "A training step against the catalogue",
        [
            f"{given.net}, {given.tables} tables, batch {given.batch:,}, {_time(given)}; samples/s, medians of "
            f"{given.repeats} interleaved repeats; data are random pairs.",
            "Ratio: samples/s at the most rows over those at the fewest in the same repeat; median (least to most).",
        ],
        ["step", *(f"{rows:,} rows" for rows in ROWS), "ratio", "x dense Adam at the most"],
        lines,
    )


def crossover(given: argparse.Namespace) -> None:
    """Dense against rows for Adam, by table rows over batch size, for a small batch and a usual one."""
    lines = []
    ways = [WAYS["dense Adam"], WAYS["rows, Adam"]]
    for batch, times in product((409, 2048), (2, 4, 8, 16, 32)):
        rows, case = times * batch * 3 // 2, argparse.Namespace(**{**vars(given), "batch": batch})
        speeds = [[Case(way, rows, case).speed() for way in ways] for _ in range(given.repeats)]
        dense, by_rows = (median(column) for column in zip(*speeds, strict=True))
        cells = (f"{batch:,}", f"{times}", f"{rows:,}", f"{dense:,.0f}", f"{by_rows:,.0f}")
        lines.append([*cells, f"{by_rows / dense:.2f}"])
    write_result(
        "optimizer_crossover",
        "Where stepping by rows pays",
        [
            f"{given.net}, {given.tables} tables, Adam, {_time(given)}; samples/s, medians of {given.repeats} "
            "interleaved repeats."
        ],
        ["batch", "rows of the user table / batch", "rows in all", "dense", "by rows", "ratio"],
        lines,
    )


def _time(given: argparse.Namespace) -> str:
    return "1 thread, CPU time" if given.threads == 1 else f"{given.threads} threads, wall time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--net", choices=["neumf", "mlp"], default="neumf")
    parser.add_argument("--tables", type=int, choices=[2, 4], default=2)
    parser.add_argument("--crossover", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    (crossover if given.crossover else compare)(given)


if __name__ == "__main__":
    main()
