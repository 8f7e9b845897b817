"""An update with tomorrow's rows beside a full refit: how good are the lists, and what does it cost?

    python benchmarks/update.py [--models ease ials ...] [--seeds 0] [--keep FOLDER]

MovieLens-1M in the order of time. A model is trained on the first 80 % of the rows and then updated with the next 10 %,
as `palate update` does. The full refit starts from nothing with these 90 %: it trains the model as it comes, whose
settings and epochs are chosen on the newest tenth of the rows, and then trains it on all of them (`palate train
--refit`). The last 10 % judge both: one question for each user of that part, whose history are the 90 %.

Processor seconds are those of the fits alone; the second fit of the refit, with settings and epochs known, is given
too. Bars: ndcg@10 of the update at least 98 % of that of the full refit, at most 30 % of its time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl
from common import Kept, arguments, asked, real_data, student, write_result

from palate import Dataset, Recommender

MODELS = ("popularity", "ease", "ials", "multvae", "neumf", "sasrec", "hybrid")
METRIC = "ndcg@10"


def read() -> tuple[list[pl.DataFrame], pl.DataFrame]:
    """The first 80 %, the next 10 % and the last 10 % of the rows in the order of time, and the table of items."""
    folder = real_data("ml-1m")
    rows = pl.read_parquet(folder / "ratings.parquet", columns=["user_id", "item_id", "rating", "timestamp"])
    rows = rows.sort("timestamp", maintain_order=True)
    cuts = [0, round(0.8 * len(rows)), round(0.9 * len(rows)), len(rows)]
    items = pl.read_parquet(folder / "movies.parquet")
    return [rows[start:stop] for start, stop in pairwise(cuts)], items


def timed(make: Callable[[], Recommender]) -> tuple[Recommender, float]:
    """A recommender, and the processor seconds that making it took."""
    start = time.process_time()
    made = make()
    return made, time.process_time() - start


def trained(rows: pl.DataFrame, items: pl.DataFrame, name: str, seed: int) -> Recommender:
    """A model as it comes; the newest tenth of the rows chooses settings and epochs."""
    data = Dataset.from_frame(rows, items=items if name == "hybrid" else None)
    parts = data.split("temporal", valid=0.1, test=1e-6)  # a test part of one row: nothing is judged on it
    rec = Recommender.train(parts.train, name, valid=parts.valid, seed=seed)
    return replace(rec, parts={"valid": parts.valid, "test": parts.test})


def compared(keep: Kept, name: str, rows: list[pl.DataFrame], items: pl.DataFrame, seed: int) -> dict[str, Any]:
    """ndcg@10 and seconds of the update and of the full refit."""

    def fit() -> tuple[dict[str, Any], Any]:
        old, new, last = rows
        test = Dataset.from_frame(last)
        before = trained(old, items, name, seed)
        updated, seconds = timed(lambda: before.update(new)[0])
        chosen, choosing = timed(lambda: trained(pl.concat([old, new]), items, name, seed))
        full, refitting = timed(chosen.refit)
        judged = {"update": updated, "full": full}
        values = {which: rec.evaluate(test, [METRIC])[METRIC].value for which, rec in judged.items()}
        return {"seconds": [seconds, choosing + refitting, refitting], **values, "test": {}}, None

    return keep.get(f"{name}-{seed}", False, fit, lambda *_: {})


def main() -> None:
    """Measure and write the table."""
    parser = arguments(__doc__, MODELS)
    given = asked(parser)
    rows, items = read()
    lines = []
    for name in given.models or MODELS:
        runs = [compared(Kept(given.keep), name, rows, items, seed) for seed in given.seeds]
        update, full, refit = (statistics.median(run["seconds"][i] for run in runs) for i in range(3))
        lines.append(
            [
                name,
                student([run["update"] for run in runs]),
                student([run["full"] for run in runs]),
                student([run["update"] / run["full"] for run in runs]),
                *(f"{seconds:.1f}" for seconds in (update, full, refit)),
                f"{update / full:.2f}",
            ]
        )
    about = [
        f"MovieLens-1M: first 80 %, next 10 %, last 10 % of the rows by time; seeds {given.seeds}; {given.threads} "
        "thread(s). With several seeds: 95 % intervals, Student's t; medians of the seconds.",
        "Bars: share >= 0.98 at a share of the time <= 0.30.",
    ]
    header = [
        "model", "ndcg@10, update", "ndcg@10, full refit", "share", "update, CPU s", "full refit, CPU s",
        "its second fit, CPU s", "share of the time",
    ]  # fmt: skip
    write_result("update", "Update beside full refit", about, header, lines)


if __name__ == "__main__":
    main()
