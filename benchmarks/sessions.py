"""Next click in anonymous sessions: Diginetica, canonical prefixes, P@20 (hit rate) and MRR@20.

    python benchmarks/sessions.py [--models vmis-knn markov popularity] [--threads 1]

Settings are those with the best mrr@20 among the few named here, on a sample of the latest tenth of the training
sessions. The best is fitted again on all training sessions, as in the papers, and judged on all 60,858 prefixes once.
Latency is that of one prefix at a time: the scores of all items, and the list of 20 made of them.

Bar: vmis-knn P@20 / MRR@20 >= 0.505 / 0.175; a list in at most 2 ms (median).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from common import real_data, write_result

from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.data.splits.sessions import given_sessions, read_prefixes
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.protocols import prepare
from palate.models import MODELS
from palate.models.base import Model
from palate.ranking.topk import rank

METRICS = ("hit@20", "mrr@20")
CHOOSE_ON = 400
"""Sessions of the valid part that settings are chosen on."""
ASKED = 2000
"""Prefixes whose latency is measured."""
CHOICES: dict[str, list[dict[str, Any]]] = {
    "vmis-knn": [{}, {"k": 200}, {"decay": 2.0}, {"window": 5}],
    "markov": [{}, {"gaps": 1, "last": 1}, {"gaps": 10, "last": 10, "decay": 0.8}],
    "popularity": [{}],
}


def sample(part: Dataset, count: int) -> Dataset:
    """The rows of some sessions, drawn at random."""
    chosen = np.random.default_rng(0).choice(part.active_users, min(count, len(part.active_users)), replace=False)
    return part.take(np.isin(part.user, chosen))


def fitted(name: str, config: dict[str, Any], train: Dataset) -> tuple[Model, float]:
    """A fitted model and the CPU seconds it took."""
    model = MODELS[name](MODELS[name].Config(**config), MODELS[name].spec_of(train))
    start = time.process_time()
    model.fit(train)
    return model, time.process_time() - start


def chosen(name: str, parts: Split, protocol: Protocol) -> tuple[dict[str, Any], str]:
    """The settings with the best mrr@20 on valid, and what was tried."""
    if len(CHOICES[name]) == 1:
        return CHOICES[name][0], f"{name}: no settings"
    part, found = sample(parts.valid, CHOOSE_ON), []
    for config in CHOICES[name]:
        value = evaluate(fitted(name, config, parts.train)[0], part, METRICS, protocol=protocol)["mrr@20"].value
        found.append((value, config))
        print(name, config, f"{value:.4f}", flush=True)
    best = max(found, key=lambda pair: pair[0])[1]
    tried = ", ".join(f"{config or 'defaults'} {value:.4f}" for value, config in found)
    return best, f"{name}: mrr@20 on valid: {tried}; chosen: {best or 'defaults'}"


def latency(model: Model, test: Dataset) -> list[str]:
    """Median and 99th percentile in CPU ms, one prefix at a time: scores alone, and the list of 20."""
    questions, found = test.questions, []
    rows = np.random.default_rng(0).choice(len(questions), ASKED, replace=False)
    queries = [questions.queries(slice(row, row + 1), model.spec) for row in rows.tolist()]
    for answer in (model.score, lambda query: rank(model, query, 20, exclude_seen=False)):
        times = []
        for query in queries:
            start = time.thread_time_ns()
            answer(query)
            times.append((time.thread_time_ns() - start) / 1e6)
        found += [f"{value:.2f}" for value in np.percentile(times, [50, 99])]
    return found


def main() -> None:
    """Choose, fit again, judge, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = real_data("sessions-diginetica")
    table = pl.read_parquet(folder / "train_sessions.parquet").explode("items")
    data = Dataset.read(table, session="session_id", columns={"item_id": "items"})
    ready = prepare("session-prefixes", data, given=folder / "test_prefixes.parquet")
    whole = given_sessions(data, read_prefixes(folder / "test_prefixes.parquet", data), valid=0.0, drop_new_items=True)
    protocol = replace(ready.protocol, split_options=(("drop_new_items", True), ("valid", 0.0)))
    rows, about, judged = [], [], {}
    for name in given.models:
        config, words = chosen(name, ready.parts, ready.protocol)
        about.append(words)
        model, seconds = fitted(name, config, whole.train)
        start = time.process_time()
        found: Evaluation = evaluate(model, whole.test, METRICS, protocol=protocol, name=name)
        ranking = time.process_time() - start
        judged[name] = found
        print(found, flush=True)
        figures = [str(found[metric]) for metric in METRICS]
        rows.append([name, *figures, *latency(model, whole.test), f"{seconds:.1f}", f"{ranking:.0f}"])
    asked = len(whole.test.questions)
    verdicts = [d.verdict for d in compare(judged, "mrr@20").differences] if len(judged) > 1 else []
    hashes = {found.protocol.hash for found in judged.values()}
    lines = [
        f"Data: Diginetica, canonical: {whole.train.n_users:,} training sessions of {len(whole.train):,} clicks, "
        f"{whole.train.n_items:,} items; test: {asked:,} prefixes of {len(whole.test.active_users):,} sessions.",
        f"Protocol hash: {', '.join(sorted(hashes))}. No seeds: nothing is random. Intervals: 95 %, over sessions.",
        *about,
        "Latency: CPU ms of one prefix (p50, p99), on a machine that other work shares. Seconds: CPU.",
        "Published: SR-GNN 0.5073 / 0.1759, with RecBole 0.5102 / 0.1764.",
        *verdicts,
    ]
    header = ["model", "P@20", "MRR@20", "scores p50 ms", "p99", "list p50 ms", "p99", "fit s", "ranking s"]
    write_result("sessions_diginetica", "Diginetica: the next click of a session", lines, header, rows)


if __name__ == "__main__":
    main()
