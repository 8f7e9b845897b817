"""Seconds and memory of the whole way at MovieLens-20M's size: generate, load, split, one epoch of MF, evaluate.

    python benchmarks/memory.py [--rows 20000000] [--users 138000] [--items 27000] [--folder FOLDER]

Each stage runs in this one process, one after the other, so the peak is the whole run's. The interactions are made in
blocks and stored as a memory-mapped dataset in a process of its own (`--folder` keeps them for the next time); the run
that is measured begins with opening it. MF: `bce`, tables by rows. Memory is the process's peak resident size, mapped
file pages included, which the kernel may drop when it needs them; "own" leaves those out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import peak_bytes, write_result

BOUND = 3.0
"""GiB."""


def generate(folder: Path, given: argparse.Namespace) -> None:
    from palate.data.sources.synthetic import make_world
    from palate.data.store import write_blocks

    world = make_world(given.rows, given.users, given.items)
    write_blocks(folder, world.blocks(), n_users=given.users, n_items=given.items, rating_scale=(1.0, 5.0))


class Watch:
    """Runs stages and notes each one's seconds and peak."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = []
        self.peak = self.own = 0.0

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        done = threading.Event()
        highest = [0.0, 0.0]

        def look() -> None:
            while not done.wait(0.02):
                highest[:] = map(max, highest, resident())

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        highest = list(map(max, highest, resident()))
        self.peak, self.own = max(self.peak, highest[0]), max(self.own, highest[1])
        self.rows.append([name, f"{seconds:.1f}", f"{highest[0]:.2f}", f"{highest[1]:.2f}"])
        print(*self.rows[-1], flush=True)
        return result


def resident() -> tuple[float, float]:
    """Resident memory now, and the part of it that is no file's, in GiB."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    sizes = [int(found[name].split()[0]) / 2**20 for name in ("VmRSS", "RssAnon")]
    return sizes[0], sizes[1]


def measure(folder: Path) -> Watch:
    watch = Watch()
    watch.stage("import", _imports)
    import numpy as np

    from palate.config import Training
    from palate.data.store import open_dataset
    from palate.evaluation.evaluate import evaluate
    from palate.models import MODELS

    def load() -> Any:
        found = open_dataset(folder)
        assert int(found.offsets[-1]) == len(found)  # reads the users
        return found

    def fit() -> Any:
        mf = MODELS["mf"]
        model = mf(mf.Config(loss="bce"), parts.train.spec)
        training = Training(epochs=1, batch_size=16384, lr=0.01, embeddings="rowwise")
        watch.records = model.fit(parts.train, training)  # type: ignore[attr-defined]
        return model

    data = watch.stage("load", load)
    parts = watch.stage("split (temporal)", data.split)
    del data
    model = watch.stage("one epoch of MF", fit)
    result = watch.stage("evaluate on test, full ranking", lambda: evaluate(model, parts.test))
    assert np.isfinite(result["ndcg@10"].value)
    return watch


def _imports() -> None:
    import palate.data.store
    import palate.evaluation.evaluate
    import palate.models  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=138_000)
    parser.add_argument("--items", type=int, default=27_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--generate", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.generate:
        generate(given.folder, given)
        peak = peak_bytes() / 2**30
        (given.folder.parent / f"{given.folder.name}.peak").write_text(f"{peak:.2f}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch) / "data"
        made = ["generate and store, in blocks", "kept from before", "", ""]
        if not (folder / "dataset.json").exists():
            start = time.perf_counter()
            command = [sys.executable, __file__, "--generate", "--folder", str(folder)]
            command += ["--rows", str(given.rows), "--users", str(given.users), "--items", str(given.items)]
            subprocess.run(command, check=True)
            peak = (folder.parent / f"{folder.name}.peak").read_text()
            made = [made[0], f"{time.perf_counter() - start:.1f}", peak, ""]
        watch = measure(folder)
    peak = peak_bytes() / 2**30
    within = peak < BOUND
    write_result(
        "memory",
        "Memory at 20 million interactions",
        [
            f"{given.rows:,} made-up interactions, {given.users:,} users, {given.items:,} items, seed 0.",
            f"Peak of the run: {peak:.2f} GiB (own {watch.own:.2f}); bound {BOUND:.0f} GiB: "
            f"{'held' if within else 'BROKEN'}.",
        ],
        ["stage", "seconds", "peak GiB", "of it own"],
        [made, *watch.rows],
    )
    sys.exit(not within)


if __name__ == "__main__":
    main()
