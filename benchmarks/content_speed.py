"""How long content takes: decoding posters, encoding features, one epoch of the text and of the image CNN.

    python benchmarks/content_speed.py [--threads 2]

MovieLens-1M's films with plots and posters, as in `benchmarks/cold_items.py`; pictures are decoded into a cache of the
run's own, which is empty at first. Wall time; let nothing else run. Bars: an epoch under 60 s; encoding a second time
under 2 s.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from cold_items import ML_1M, parts_of
from common import write_result
from item_tables import WORDS

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.features.encode import encode
from palate.models import MODELS

STEP = Training(epochs=1, batch_size=256, lr=2e-3)


def clock(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def epoch(model: str, data: Dataset) -> tuple[float, float]:
    """Seconds of an epoch, and of all of a fit of one: the last encoding of all items included."""
    config, _ = ML_1M[model][0]
    fresh = MODELS[model](config, data.feature_spec)
    start = time.perf_counter()
    [record] = fresh.fit(data, STEP)
    return record.seconds, time.perf_counter() - start


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PALATE_CACHE"] = cache
        train = parts_of("ml-1m", 0).train
        table, features = train.item_table, train.feature_spec.item_features
        assert table is not None
        assert features is not None
        first, again = (clock(lambda: encode(table, features)) for _ in range(2))
        rows = [
            ["features of all films, pictures decoded", f"{first:.1f}", ""],
            ["features of all films, pictures in the cache", f"{again:.1f}", "2"],
        ]
        for model, what in (("text-cnn", "the plots"), ("image-cnn", "the posters")):
            one, whole = epoch(model, train)
            rows += [[f"{model}, one epoch over {what}", f"{one:.1f}", "60"]]
            rows += [[f"{model}, with the vectors of all films", f"{whole:.1f}", ""]]
    posters = int(train.encoded_items(features).images["poster"].row.ge(0).sum())
    about = [
        f"Data: ml-1m, {train.n_items:,} films of train, {posters:,} with a poster; columns: {', '.join(WORDS)}",
        f"{given.threads} threads, wall time; 256 people a step.",
    ]
    write_result("content_speed", "How long content takes", about, ["what", "s", "bar"], rows)


if __name__ == "__main__":
    main()
