"""Gowalla in LightGCN's split: a catalogue of 40,981 items, where EASE's matrix would take 6.7 GB.

    python benchmarks/gowalla.py [--models popularity ials sparse-ease] [--threads 2]

Each model's settings are those with the best ndcg@20 on the valid part among the few named here, fitted on train alone;
the best is fitted anew on train and valid together, which is LightGCN's train, and judged on test once. Every model's
search and final fit run in a process of their own, whose peak memory is given.

Bar: sparse-ease recall@20 / ndcg@20 >= 0.174 / 0.145 within 15 minutes and 12 GB on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import polars as pl
from common import peak_bytes, real_data, write_result

METRICS = ["ndcg@20", "recall@20"]


def choices(name: str) -> list[Any]:
    """The settings a model may choose from."""
    from palate.models.baselines.popularity import PopularityConfig
    from palate.models.linear.sparse_ease import SparseEASEConfig
    from palate.models.mf.ials import IALSConfig

    ridges = ((40.0, 0.5, 100), (40.0, 0.7, 100), (40.0, 0.5, 200))
    return {
        "popularity": [PopularityConfig()],
        "ials": [
            IALSConfig(dim=128, alpha=alpha, reg=reg) for alpha, reg in ((0.41, 0.41), (1.24, 1.18), (1.24, 0.35))
        ],
        "sparse-ease": [SparseEASEConfig(reg=reg, dropout=dropout, k=k) for reg, dropout, k in ridges],
    }[name]


def run(name: str, threads: int) -> dict[str, Any]:
    """One model: its search on valid, its final fit, its figures on test."""
    import torch

    from palate.data.dataset import Dataset
    from palate.evaluation.evaluate import evaluate
    from palate.models import MODELS

    torch.set_num_threads(threads)
    table = pl.read_parquet(real_data("gowalla-lightgcn") / "interactions.parquet")
    data = Dataset.from_frame(table.select("user_id", "item_id"))
    choose = data.split("predefined", parts=table, column="split")
    whole = table.with_columns(pl.col("split").replace("valid", "train"))
    final = data.split("predefined", parts=whole, column="split", valid=0.0)
    tried = []
    configs = choices(name)
    for config in configs if len(configs) > 1 else ():
        model = MODELS[name](config, choose.train.spec)
        start = time.perf_counter()
        model.fit(choose.train)
        seconds = time.perf_counter() - start
        tried.append(evaluate(model, choose.valid, METRICS)["ndcg@20"].value)
        print(f"{name}: valid ndcg@20 {tried[-1]:.4f} after {seconds:.0f} s with {config}", file=sys.stderr, flush=True)
    config = configs[tried.index(max(tried))] if tried else configs[0]
    model = MODELS[name](config, final.train.spec)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(final.train)
    fitted, cpu = time.perf_counter(), time.process_time() - cpu
    result = evaluate(model, final.test, METRICS)
    return {
        "config": str(config),
        "hash": result.protocol.hash,
        "tried": len(configs),
        "fit": fitted - start,
        "cpu": cpu,
        "evaluation": time.perf_counter() - fitted,
        "peak": peak_bytes() / 2**30,
        "values": {metric: [result[metric].value, result[metric].low, result[metric].high] for metric in METRICS},
    }


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["popularity", "ials", "sparse-ease"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(given.run, given.threads)))
        return
    rows, about, hashes = [], [], set()
    for name in given.models:
        command = [sys.executable, __file__, "--run", name, "--threads", str(given.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        cells = ["{:.4f} ({:.4f} to {:.4f})".format(*found["values"][metric]) for metric in reversed(METRICS)]
        rows.append(
            [name, *cells, *(f"{found[key]:.0f}" for key in ("fit", "cpu", "evaluation")), f"{found['peak']:.1f}"]
        )
        before = " (after a search of some 18 settings on the same valid part)" if name == "sparse-ease" else ""
        about.append(f"{name}: best on valid of {found['tried']}{before}, {found['config']}")
        hashes.add(found["hash"])
    about = [
        "Data: Gowalla, LightGCN's split: 29,858 users, 40,981 items, 810,128 train rows, 217,242 test rows.",
        f"Protocol hash: {', '.join(sorted(hashes))}. Seed 0. Intervals: 95 %, over users. {given.threads} threads.",
        *about,
        "Seconds: of the final fit, and of ranking all users. Peak: of the whole process, search and data included.",
        "Bar: sparse-ease 0.174 / 0.145 within 15 minutes and 12 GB.",
        "Published: EASE 0.1765 / 0.1467, LightGCN 0.1830 / 0.1554.",
    ]
    header = ["model", "recall@20", "ndcg@20", "fit s", "fit CPU s", "ranking s", "peak GB"]
    write_result("gowalla", "Gowalla: a catalogue too large for EASE's matrix", about, header, rows)


if __name__ == "__main__":
    main()
