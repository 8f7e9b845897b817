"""Every model as it comes: no setting given, nothing searched. How good is what a first try gives?

    python benchmarks/defaults.py [--models ease multvae ...] [--seeds 0 1 2] [--keep FOLDER] [--threads 1]

MovieLens-100K. Lists under the protocol 80-10-10 (every row counts, full ranking), ratings under 90-10. The valid part
chooses nothing but the epoch; test is judged once. "All alike": the same models under one recipe for all, 20 epochs of
2,048 rows at lr 0.001, as palate had it before models brought their own.

The recipes that models bring (`Model.recipe`) were chosen on valid parts of MovieLens-100K: a few learning rates for a
family. That of cdae was raised after its test figure had been seen: under one seed it had not left popularity, on valid
as little.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

from common import Kept, arguments, asked, real_data, student, write_result

from palate.config import Recipe, Training
from palate.data.dataset import Dataset
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocols import Prepared, prepare
from palate.models import MODELS
from palate.models.base import GradientModel
from palate.recommender import Recommender

LISTS = (
    "popularity", "itemknn", "userknn", "rp3beta", "puresvd", "ease", "edlae", "sparse-ease", "ials", "mf", "gmf",
    "mlp", "neumf", "multdae", "multvae", "recvae", "cdae",
)  # fmt: skip
RATINGS = ("bias", "mf", "neumf", "svdpp", "bayes-mf", "u-autorec", "i-autorec", "sparsefc")
MSE: dict[str, Any] = {"mf": {"loss": "mse"}, "neumf": {"loss": "mse"}}
"""Models that predict ratings if asked to."""
ALIKE = Recipe(epochs=20, batch_size=2048, lr=1e-3, patience=3)
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "lists": ("80-10-10", "ndcg@10", LISTS),
    "ratings": ("90-10", "rmse", RATINGS),
}


def over_seeds(
    keep: Path, kind: str, ready: dict[int, Prepared], name: str, training: Training, mark: str = ""
) -> list[dict[str, Any]]:
    """A model's runs, one for each seed: epochs, seconds, and the evaluation under `test`."""
    config = MSE.get(name) if kind == "ratings" else None

    def fit(seed: int) -> tuple[dict[str, Any], Recommender]:
        start, parts = time.perf_counter(), ready[seed].parts
        rec = Recommender.train(parts.train, name, config, training, parts.valid, seed)
        return {"epochs": len(rec.records), "seconds": time.perf_counter() - start, "test": {}}, rec

    def judge(seed: int, rec: Recommender, kept: dict[str, Any]) -> dict[str, Any]:
        test, how = ready[seed].parts.test, ready[seed].protocol
        return evaluate(rec.model, test, protocol=how, name=name, fit_seconds=kept["seconds"]).to_dict()

    return [
        Kept(keep / f"{kind}-{seed}").get(name + mark, True, partial(fit, seed), partial(judge, seed)) for seed in ready
    ]


def values(runs: list[dict[str, Any]], metric: str) -> list[float]:
    """A metric on test, by seed."""
    return [Evaluation.from_dict(run["test"])[metric].value for run in runs]


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
            runs, alike = over_seeds(given.keep, kind, ready, name, Training()), ""
            if issubclass(MODELS[name], GradientModel):
                alike = student(values(over_seeds(given.keep, kind, ready, name, ALIKE, "-alike"), metric))
            told = values(runs, metric)
            epochs, seconds = (statistics.median(run[what] for run in runs) for what in ("epochs", "seconds"))
            what = f"{name}, loss mse" if kind == "ratings" and name in MSE else name
            row = [what, kind, metric, student(told), alike, f"{epochs:.0f}", f"{seconds:.1f}"]
            found.append((statistics.fmean(told), row))
        rows += [row for _, row in sorted(found, reverse=kind == "lists")]
    about = [
        f"Data: MovieLens-100K; seeds {given.seeds}; protocol hashes (first seed): "
        + ", ".join(f"{name} {each}" for name, each in hashes.items()) + ".",
        f"Intervals: 95 %, Student's t over {len(given.seeds)} seeds. Epochs and seconds of the fit: medians; "
        f"{given.threads} thread(s), beside other work.",
    ]  # fmt: skip
    header = ["model", "for", "metric", "as it comes", "all alike", "epochs", "fit s"]
    write_result("defaults", "Models as they come", about, header, rows)


if __name__ == "__main__":
    main()
