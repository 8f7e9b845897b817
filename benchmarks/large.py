"""Seconds and memory from a million to a hundred million interactions: ingest, split, fit, evaluate, list.

    python benchmarks/large.py [--rows 1e6 1e7] [--stages make ingest read popularity ials two-tower mf] [--keep FOLDER]

The library's own source makes the interactions: `rows` / 100 users and 10 * sqrt(`rows`) items, which is a million
users and 100,000 items at 1e8. They are written as CSV with ids of text; `palate data ingest` makes a data set on disk
of it, and each model runs on that in a process of its own: open, split by time, fit (gradient models: one epoch),
evaluate on 1,000 users of the test part, and make lists of 10 for 1,000 users. What is done is kept in `--keep` and not
done again; the table shows all of it.

Memory is the peak of the resident size (VmHWM), pages of mapped files included, which the kernel may drop when it needs
them. It does not depend on what else the machine does; seconds do, and are upper bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from common import write_result

MODELS = ("popularity", "ials", "two-tower", "mf")
STEPS = ("open", "split", "fit", "evaluate", "list")
MEMORY = {20_000_000: 0.6}
"""What `--memory` of ingest is, in GB; 1.0 for other sizes."""
ASKED = 1_000
"""Users that are evaluated, and that get lists."""


def counts(rows: int) -> tuple[int, int]:
    """Number of users and of items."""
    return rows // 100, round(10 * rows**0.5)


def peak() -> float:
    """Peak resident size since the last call, in GB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return found


class Stages:
    """Seconds and peak of each stage of this process."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one stage."""
        peak()
        start = time.perf_counter()
        result = work()
        self.found[name] = {"seconds": time.perf_counter() - start, "gb": peak()}
        print(name, self.found[name], flush=True)
        return result


def make(rows: int, folder: Path) -> dict[str, Any]:
    """Write the interactions as CSV; ids are text whose order is not that of the rows."""
    import numpy as np
    import polars as pl

    from palate.data.sources.synthetic import item_table, make_world

    world = make_world(rows, *counts(rows))

    def names(prefix: str, index: np.ndarray) -> pl.Series:
        mixed = pl.Series((index.astype(np.uint64) * 2654435761 % 2**32).astype(np.int64))
        return pl.select(pl.format(prefix + "{}", mixed).alias(f"{prefix[:4]}_id")).to_series()

    def write() -> None:
        with (folder / "rows.csv").open("wb") as file:
            for number, block in enumerate(world.blocks()):
                frame = pl.DataFrame(
                    {
                        "user_id": names("user-", block.user),
                        "item_id": names("item-", block.item),
                        "rating": block.rating,
                        "timestamp": block.timestamp,
                    }
                )
                # The rows of a block are in no order.
                shuffled = frame.sample(fraction=1, shuffle=True, seed=number)
                shuffled.write_csv(file, include_header=not number, float_precision=0)

        rng = np.random.default_rng([world.seed, 2])
        table = item_table(world.topics, world.second_topics, world.releases, world.n_topics, rng)
        table.with_columns(names("item-", table["item_id"].to_numpy())).write_csv(folder / "items.csv")

    stages = Stages()
    stages.run("make", write)
    return {"stages": stages.found, "bytes": (folder / "rows.csv").stat().st_size}


def ingest(rows: int, folder: Path) -> dict[str, Any]:
    """What `palate data ingest` does."""
    from palate.data.reading.ingest import Side
    from palate.data.reading.ingest import ingest as write_store

    stages, memory = Stages(), MEMORY.get(rows, 1.0)
    items = Side(source=folder / "items.csv")
    found = stages.run(
        "ingest", lambda: write_store([folder / "rows.csv"], folder / "store", memory=memory, items=items)
    )
    return {"stages": stages.found, "fingerprint": found.fingerprint, "rows": found.rows, "memory_gb": memory}


def read(rows: int, folder: Path) -> dict[str, Any]:
    """What `Dataset.read` does of the same file, for comparison."""
    import palate

    stages = Stages()
    found = stages.run("read", lambda: palate.read_dataset(folder / "rows.csv", items=folder / "items.csv"))
    return {"stages": stages.found, "fingerprint": found.fingerprint, "rows": len(found)}


def model(name: str, folder: Path, steps: int, iterations: int) -> dict[str, Any]:
    """Open, split, fit, evaluate and list.

    Args:
        name: Of the model.
        folder: Holds the data set.
        steps: Gradient steps after which an epoch ends; 0 for a whole one.
        iterations: Rounds of iALS; 0 for its default.
    """
    import numpy as np

    import palate
    from palate.config import Training
    from palate.evaluation.evaluate import evaluate
    from palate.models import MODELS as known
    from palate.models.base import GradientModel

    kind, stages = known[name], Stages()
    config = kind.Config(loss="bce") if name == "mf" else kind.Config()
    config = kind.Config(iterations=iterations) if name == "ials" and iterations else config
    note = f"{config.iterations} iterations" if name == "ials" else "one epoch"
    if steps and issubclass(kind, GradientModel):
        whole, note = kind.batches, f"the first {steps:,} steps of an epoch"

        def batches(self: Any, *given: Any) -> Any:
            return islice(whole(self, *given), steps)

        kind.batches = batches  # type: ignore[method-assign]
    training = Training(epochs=1, batch_size=16384, lr=0.01, embeddings="rowwise") if name == "mf" else None
    training = Training(epochs=1) if name == "two-tower" else training
    data = stages.run("open", lambda: palate.Dataset.open(folder / "store"))
    parts = stages.run("split", lambda: data.split("temporal"))
    rec = stages.run("fit", lambda: palate.Recommender.train(parts.train, name, config, training, seed=0))
    users = np.zeros(parts.test.n_users, dtype=bool)
    users[np.random.default_rng(0).choice(parts.test.active_users, ASKED, replace=False)] = True
    result = stages.run("evaluate", lambda: evaluate(rec.model, parts.test.take(users[parts.test.user])))
    some = parts.train.users.ids[np.sort(np.random.default_rng(1).choice(parts.train.n_users, ASKED, replace=False))]
    lists = stages.run("list", lambda: rec.recommend(users=some.to_list(), k=10))
    assert len(lists) == 10 * ASKED
    return {"stages": stages.found, "ndcg@10": result["ndcg@10"].value, "fit": "" if name == "popularity" else note}


def run_one(rows: int, stage: str, folder: Path, steps: int, iterations: int) -> None:
    """One stage in this process; its result is written to a file."""
    work = {"make": make, "ingest": ingest, "read": read}.get(stage)
    found = model(stage, folder, steps, iterations) if work is None else work(rows, folder)
    (folder / f"{stage}.json").write_text(json.dumps(found))


def table(keep: Path) -> None:
    """Write what is done."""
    lines = []
    for folder in sorted(keep.glob("*"), key=lambda path: float(path.name)):
        rows = int(float(folder.name))
        users, items = counts(rows)
        size = f"{rows:,}", f"{users:,} x {items:,}"
        done = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        for stage in ("make", "ingest", "read"):
            if stage in done:
                one, names = done[stage]["stages"][stage], {"make": "make CSV", "read": "Dataset.read"}
                note = f"--memory {done[stage]['memory_gb']:g}GB" if stage == "ingest" else ""
                if "fingerprint" in done[stage]:
                    note = f"{note} fingerprint {done[stage]['fingerprint']}".strip()
                lines.append([*size, names.get(stage, stage), f"{one['seconds']:.1f}", f"{one['gb']:.2f}", note])
        for name in MODELS:
            if name in done:
                for step, one in done[name]["stages"].items():
                    note = f"ndcg@10 {done[name]['ndcg@10']:.4f}" if step == "evaluate" else ""
                    note = done[name]["fit"] if step == "fit" else note
                    lines.append([*size, f"{name}: {step}", f"{one['seconds']:.1f}", f"{one['gb']:.2f}", note])
    write_result(
        "large",
        "From a million to a hundred million interactions",
        [
            "Made-up interactions (`palate.data.sources.synthetic`, seed 0), ids of text, split by time (0.1, 0.1).",
            "Each size and model in a process of its own; a stage's GB are its peak of resident memory, pages of "
            "mapped files included. Memory does not depend on load; the machine was shared: seconds are upper bounds.",
            "mf: `bce`, batches of 16,384, tables by rows. two-tower, ials: their defaults. Evaluation and lists: "
            "1,000 users, whole catalogue.",
        ],
        ["interactions", "users x items", "stage", "seconds", "peak GB", ""],
        lines,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(float(text)), nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--stages", nargs="+", default=["make", "ingest", "read", *MODELS])
    parser.add_argument("--keep", type=Path, default=Path("runs") / "large")
    parser.add_argument("--steps", type=int, default=0, help="gradient steps of an epoch; default: all of them")
    parser.add_argument("--iterations", type=int, default=0, help="rounds of ials; default: its own")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for rows in given.rows:
        folder = given.keep / f"{rows:g}"
        folder.mkdir(parents=True, exist_ok=True)
        for stage in given.stages:
            if given.one:
                run_one(rows, stage, folder, given.steps, given.iterations)
            elif not (folder / f"{stage}.json").exists():
                command = [sys.executable, __file__, "--one", "--rows", str(rows), "--stages", stage]
                command += ["--keep", str(given.keep), "--steps", str(given.steps)]
                # As on the command line: threads that wait for each other by spinning are slow on a shared machine.
                environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
                subprocess.run([*command, "--iterations", str(given.iterations)], check=True, env=environment)
    if not given.one:
        table(given.keep)


if __name__ == "__main__":
    main()
