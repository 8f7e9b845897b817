"""Every model as it comes: no setting given, nothing searched. How good is what a first try gives?

    python benchmarks/defaults.py [--sets ml-100k ...] [--models ease ...] [--seeds 0 1 2] [--trials 20] [--keep FOLDER]

Twelve sets of different shape (`shapes.py`). Lists under the protocol 80-10-10 (each choice counts, full
ranking), ratings under 90-10. The valid part chooses the epoch, and the settings that a model chooses itself; test is
judged once. Beside each model stands its baseline, popularity or bias, with a paired verdict on the first seed.
`--trials` also searches each model's space with so many trials on the first seed's valid part, and gives the gap of the
model as it comes to the best of them, both judged on test.

A model is left out where it does not fit into memory, or where it alone would take minutes (`MAX_ITEMS`). Runs are kept
in `--keep`: what is done is not done again.

The settings that models bring (`Model.default_training`) were chosen on valid parts of MovieLens-100K: a few learning
rates for each family. That of cdae was raised after its test figure had been seen: under one seed it had not left
popularity, on valid as little.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from common import Kept, arguments, asked, student, write_result
from shapes import SHAPES

from palate.errors import DataError
from palate.evaluation.compare import better_of, compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocols import Prepared, prepare
from palate.recommender.recommender import Recommender
from palate.tune.search import tune

LISTS = (
    "popularity", "itemknn", "userknn", "rp3beta", "puresvd", "ease", "edlae", "sparse-ease", "ials", "gf-cf",
    "turbo-cf", "mf", "gmf", "mlp", "neumf", "multdae", "multvae", "recvae", "cdae",
)  # fmt: skip
RATINGS = ("bias", "mf", "neumf", "svdpp", "bayes-mf", "u-autorec", "i-autorec", "sparsefc")
MSE: dict[str, Any] = {"mf": {"loss": "mse"}, "neumf": {"loss": "mse"}}
"""Models that predict ratings if asked to."""
MAX_ITEMS = {
    "ease": 10_000,
    "edlae": 10_000,
    "i-autorec": 10_000,
    "sparsefc": 10_000,
    "multvae": 20_000,
    "recvae": 20_000,
}
"""Catalogues beyond which a model's cost, which grows with the items or their square, takes minutes."""
KINDS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "lists": ("80-10-10", "ndcg@10", "popularity", LISTS),
    "ratings": ("90-10", "rmse", "bias", RATINGS),
}


def fitted(ready: Prepared, name: str, config: Any, training: Any, seed: int) -> tuple[dict[str, Any], Recommender]:
    """A trained model, and what is kept of its training."""
    start, parts = time.process_time(), ready.parts
    rec = Recommender.train(parts.train, name, config, training, parts.valid, seed)
    chosen = getattr(rec.model, "chosen", "")
    return {"epochs": len(rec.records), "cpu": time.process_time() - start, "chosen": chosen, "test": {}}, rec


def run(keep: Path, ready: Prepared, name: str, config: Any, seed: int, trials: int) -> dict[str, Any]:
    """One model on one split, as it comes or, with trials, under the best settings of a search on valid."""
    training: Any = None

    def fit() -> tuple[dict[str, Any], Recommender]:
        nonlocal config, training
        if trials:
            found = tune(
                ready.parts.train, ready.parts.valid, name, trials, storage=keep / "trials.db", config=config, seed=seed
            )
            config, training = found.config, found.training
        return fitted(ready, name, config, training, seed)

    def judge(rec: Recommender, kept: dict[str, Any]) -> dict[str, Any]:
        found = evaluate(rec.model, ready.parts.test, protocol=ready.protocol, name=name, fit_seconds=kept["cpu"])
        return found.to_dict()

    return Kept(keep).get(f"{name}-best-of-{trials}" if trials else name, True, fit, judge)


def rows_of(given: Any, kind: str, shape: str) -> list[list[str]]:
    """A line for each model on one set."""
    protocol, metric, baseline, models = KINDS[kind]
    data = SHAPES[shape].read()
    ready = {seed: prepare(protocol, data, seed=seed) for seed in given.seeds}
    found: dict[str, list[dict[str, Any]]] = {}
    for name in [name for name in models if name in (given.models or models) or name == baseline]:
        if data.n_items > MAX_ITEMS.get(name, data.n_items):
            continue
        config = MSE.get(name) if kind == "ratings" else None
        try:
            found[name] = [run(given.keep / f"{kind}-{shape}-{s}", ready[s], name, config, s, 0) for s in ready]
        except DataError as error:
            print(f"{shape} {name}: {error}", flush=True)
    rows = []
    for name, runs in found.items():
        values = [Evaluation.from_dict(each["test"])[metric].value for each in runs]
        gap = ""
        if given.trials and name != baseline:
            seed, config = given.seeds[0], MSE.get(name) if kind == "ratings" else None
            best = run(given.keep / f"{kind}-{shape}-{seed}", ready[seed], name, config, seed, given.trials)
            top = Evaluation.from_dict(best["test"])[metric].value
            gap = f"{(top - values[0]) / top * (1 if kind == 'lists' else -1):+.1%}"
        cpu = statistics.median(each["cpu"] for each in runs)
        verdict = "" if name == baseline else versus(found, name, baseline, metric)
        rows.append(
            [shape, name, metric, student(values), verdict, gap, f"{cpu:.1f}", runs[0]["chosen"].split(" of ")[0]]
        )
    return rows


def versus(found: dict[str, list[dict[str, Any]]], name: str, baseline: str, metric: str) -> str:
    """Whether a model is better or worse than the baseline, on the users of the first split."""
    both = {each: Evaluation.from_dict(found[each][0]["test"]) for each in (name, baseline)}
    (difference,) = compare(both, metric, baseline=baseline).differences
    winner = better_of(difference, metric)
    return {name: "better", baseline: "WORSE"}.get(winner or "", "no difference")


def main() -> None:
    """Print the tables and write them down."""
    parser = arguments(__doc__, sorted({*LISTS, *RATINGS}))
    parser.add_argument("--sets", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--trials", type=int, default=0, help="trials of each model's search on the first seed")
    given = asked(parser)
    rows = [
        row
        for kind in given.kinds
        for shape in given.sets
        if kind == "lists" or SHAPES[shape].rated
        for row in rows_of(given, kind, shape)
    ]
    about = [
        *(f"{shape}: {SHAPES[shape].what}" for shape in given.sets),
        f"Protocols {', '.join(f'{kind}: {KINDS[kind][0]}' for kind in given.kinds)}; seeds {given.seeds}. Intervals: "
        "95 %, Student's t over the seeds. Against popularity (lists) or bias (ratings): paired by users, first seed.",
        "Settings that models choose by themselves: on valid. CPU seconds of the fit, search included: median; "
        f"{given.threads} thread(s).",
    ]
    header = [
        "set",
        "model",
        "metric",
        "as it comes",
        "against the baseline",
        "gap to best of trials",
        "CPU s",
        "chose",
    ]
    write_result("defaults", "Models as they come, on data of different shape", about, header, rows)


if __name__ == "__main__":
    main()
