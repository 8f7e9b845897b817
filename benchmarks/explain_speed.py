"""How long does an explanation take, compared with the shap package, which asks for one row at a time?

    python benchmarks/explain_speed.py [--items 3706 --history 100 --samples 1000 --repeats 15] [--no-package]

Weights are untrained, because speed does not depend on them. One user has a history of 100 items. Measured are shap
with 1,000 masks for one item of a Mult-VAE (600-200), reasons for a list of ten, exact contributions of EASE, and the
shap package's permutation and kernel explainers, with the same number of masks, on a function that scores one row at a
time. Times are medians.

Requirements: shap 150 ms, ten reasons 1 s, EASE exact 5 ms; the package at least 20 times as slow.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from common import write_result

from palate.data.dataset import Dataset, Queries
from palate.data.ragged import Ragged
from palate.explanation.explain import explain, reasons
from palate.models import MODELS
from palate.models.base import GradientModel
from palate.ranking.topk import rank

USERS = 400


def catalogue(items: int, history: int, seed: int = 0) -> Dataset:
    """Random users; the first has exactly `history` items, and the last one has all items."""
    rng = np.random.default_rng(seed)
    rows = [(0, item) for item in rng.choice(items, history, replace=False)]
    rows += [(user, item) for user in range(1, USERS) for item in rng.choice(items, 20, replace=False)]
    rows += [(USERS, item) for item in range(items)]
    return Dataset.from_frame(pl.DataFrame(rows, schema={"user_id": pl.Int64, "item_id": pl.Int64}, orient="row"))


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds, after a first call that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row_by_row(model: Any, query: Queries, item: int) -> Callable[[np.ndarray], np.ndarray]:
    """The item's score as a function of which history items are kept; each row is one query."""
    history = query.history.values

    def score(rows: np.ndarray) -> np.ndarray:
        found = []
        for row in rows:
            kept = history[torch.from_numpy(np.asarray(row) > 0.5)]
            asked = Queries(torch.tensor([-1]), Ragged.from_lengths(kept, torch.tensor([len(kept)])))
            found.append(float(model.score(asked)[0, item]))
        return np.array(found)

    return score


def package(model: Any, query: Queries, item: int, given: argparse.Namespace) -> list[list[str]]:
    """The shap package's own explainers on that function."""
    import shap

    score, size = row_by_row(model, query, item), given.history
    nothing, everything = np.zeros((1, size)), np.ones((1, size))

    def permutation() -> None:
        # A pair of orders takes 2 * size + 1 masks.
        masks = max(given.samples, 2 * size + 1)
        shap.PermutationExplainer(score, nothing)(everything, max_evals=masks, silent=True)

    def kernel() -> None:
        shap.KernelExplainer(score, nothing).shap_values(everything, nsamples=given.samples, silent=True)

    repeats = max(1, given.repeats // 5)
    return [
        [f"shap package, {name}, row by row", timed(run, repeats)]
        for name, run in (("permutation", permutation), ("kernel", kernel))
    ]


def main() -> None:
    """Measure, print and write the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("items", 3706), ("history", 100), ("samples", 1000), ("repeats", 15), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-package", action="store_true", help="do not measure the shap package")
    parser.add_argument("--name", default="explain_speed", help="name of the result's file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = catalogue(given.items, given.history)
    models = {name: with_random_weights(name, data) for name in ("multvae", "ease", "neumf")}
    query = data.queries(np.array([0]), data.spec)
    listed = {name: rank(model, query, 10).items for name, model in models.items()}
    item = int(listed["multvae"][0, 0])
    vae, ease = models["multvae"], models["ease"]
    measured: list[tuple[str, float, str]] = []

    def add(what: str, bar: str, run: Callable[[], Any]) -> float:
        seconds = timed(run, given.repeats)
        measured.append((what, seconds, bar))
        return seconds

    one = add(
        f"Mult-VAE, shap, {given.samples} masks", "150 ms",
        lambda: explain(vae, data, query, item, "shap", given.samples),
    )  # fmt: skip
    for name, model in models.items():
        add(f"{name}, reasons for a list of ten", "1 s", lambda n=name, m=model: reasons(m, data, query, listed[n]))
    add("EASE, exact", "5 ms", lambda: explain(ease, data, query, int(listed["ease"][0, 0]), "exact"))
    for method in ("lime", "occlusion", "gradient"):
        add(f"Mult-VAE, {method}", "", lambda m=method: explain(vae, data, query, item, m, given.samples))
    rows = [[what, f"{1000 * seconds:.1f}", bar, ""] for what, seconds, bar in measured]
    if not given.no_package:
        rows += [
            [what, f"{1000 * s:.1f}", ">= 20 x", f"{s / one:.1f} x"] for what, s in package(vae, query, item, given)
        ]
    about = [
        f"{given.items:,} items, a history of {given.history}; {given.threads} threads; medians of {given.repeats}.",
        "The last column is the time relative to the first line.",
    ]
    header = ["what", "ms", "requirement", "relative to the first line"]
    write_result(given.name, "How long an explanation takes", about, header, rows)


def with_random_weights(name: str, data: Dataset) -> Any:
    """A model with initial weights; EASE has random ones instead of zeros."""
    model = MODELS[name](MODELS[name].Config(), data.spec)
    torch.manual_seed(0)
    if name == "ease":
        model.weight = torch.randn(data.n_items, data.n_items, generator=torch.Generator().manual_seed(0))
    elif isinstance(model, GradientModel):
        model.init_from_data(data)
    model.fallback.learn(data)
    return model.eval()


if __name__ == "__main__":
    main()
