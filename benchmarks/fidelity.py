"""Which explainers are faithful to which models, compared with orders that ignore the model.

    python benchmarks/fidelity.py [--data ml-1m] [--models mlp multvae neumf ease] [--users 1000] [--threads 1]
    python benchmarks/fidelity.py --data ml-100k --users 20 --epochs 1 --samples 50     (a trial run)

Interactions are ratings of 4 or more, as in the published tables (LXR, Refining fidelity metrics). Settings are those
that benchmarks/rankings.py chose on valid; each user's held-out tenth chooses the number of epochs. The top item of
each user is explained by history items. Trained models are saved, so that a second run only measures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from common import real_data, write_result

from palate.config import Training
from palate.data.dataset import Dataset
from palate.evaluation.compare import ALPHA
from palate.explanation.fidelity import fidelity
from palate.explanation.fidelity_result import NAIVE_ORDERS, Fidelity
from palate.models.autoencoders.multvae import MultVAEConfig
from palate.models.linear.ease import EASEConfig
from palate.models.ncf.ncf import MLPConfig, NeuMFConfig
from palate.recommender.recommender import Recommender

NCF = Training(epochs=60, batch_size=2048, lr=2e-3, weight_decay=0.3, patience=5)
MEASURES = ("cdcg@5", "pos@5,5", "del@5", "ins@5")
MUST_MATCH_COSINE = ("exact", "shap", "lime")
"""Explainers that must not be worse than cosine order."""


@dataclass(frozen=True)
class Setting:
    """Settings of training and explaining one model."""

    config: Any
    training: Training
    samples: int = 1000
    lengths: tuple[int, ...] = (1, 2, 3, 4, 5)
    percent: bool = True
    stable: int = 100


CHEAPER: dict[str, Any] = {"samples": 150, "lengths": (5,), "percent": False, "stable": 30}
SETTINGS = {
    # Each mask of an NCF model takes a fold-in of thirty gradient steps, about 6 ms: fewer masks, and only Ke = 5.
    "mlp": Setting(MLPConfig(dim=64, layers=(64, 32, 16), loss="bce"), NCF, **CHEAPER),
    "multvae": Setting(MultVAEConfig(dim=200), Training(epochs=60, batch_size=256, lr=1e-3, patience=5)),
    "neumf": Setting(NeuMFConfig(dim=64, loss="bce"), NCF, **CHEAPER),
    "ease": Setting(EASEConfig(reg=300.0), Training()),
}


def train_or_load(name: str, parts: Any, keep: Path, epochs: int | None) -> Recommender:
    """Load a model from its folder, or train it and save it there."""
    folder = keep / name
    if folder.exists():
        return Recommender.load(folder)
    setting = SETTINGS[name]
    training = setting.training if epochs is None else replace(setting.training, epochs=epochs)
    start = time.perf_counter()
    fitted = Recommender.train(parts.train, name, setting.config, training, valid=parts.valid)
    print(f"{name}: trained in {time.perf_counter() - start:.0f} s, {len(fitted.records)} epochs", flush=True)
    fitted.save(folder)
    return fitted


def table_rows(name: str, found: Fidelity) -> list[list[str]]:
    """One row for each method, the most faithful first."""
    lines = []
    cosine = {each.first: each for each in found.compare("cdcg@5", ("cosine",))}
    for method in found.ranked():
        estimates, gap = found.estimates(method), cosine.get(method)
        stable = found.stability.get(method)
        lines.append([
            name, method, *(str(estimates[measure]) for measure in MEASURES),
            "" if gap is None else f"{gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})",
            *(str(estimates[m]) if m in estimates else "" for m in ("pos-p@5", "neg-p@5", "del-p", "ins-p")),
            "" if stable is None else f"{stable.value:.3f}",
            f"{1000 * found.seconds[method]:.1f}" if method in found.seconds else "",
        ])  # fmt: skip
    return lines


def requirements(name: str, found: Fidelity) -> list[str]:
    """Whether the requirements are met, as sentences."""
    failed = [
        f"{each.first} on {measure} against {each.second}"
        for measure in MEASURES
        for each in found.compare(measure, NAIVE_ORDERS)
        if not (each.holm < ALPHA and (each.low > 0 if measure == "ins@5" else each.high < 0))
    ]
    behind = [
        f"{each.first} on {measure}"
        for measure in MEASURES
        for each in found.compare(measure, ("cosine",))
        if each.first in MUST_MATCH_COSINE
        and each.holm < ALPHA
        and (each.high < 0 if measure == "ins@5" else each.low > 0)
    ]
    beaten = f"no: {'; '.join(failed)}" if failed else "yes, on all measures"
    equal = f"no: {'; '.join(behind)}" if behind else "yes, on all measures"
    return [
        f"{name}: does every explainer beat random and popularity order (paired, Holm)? {beaten}",
        f"{name}: are exact, shap and lime as faithful as cosine order or more? {equal}",
        f"{name}: {'; '.join([*found.verdict(), *found.notes])}",
    ]


def liked_items(folder: str) -> Dataset:
    """Ratings of 4 or more, as events."""
    liked = pl.read_parquet(real_data(folder) / "ratings.parquet").filter(pl.col("rating") >= 4)
    return Dataset.read(liked.drop("rating"))


def report(given: argparse.Namespace, results: dict[str, Fidelity], quality: dict[str, str]) -> None:
    """Print and write the results so far."""
    about = [
        f"Data: {given.data}, ratings of 4 or more as events; per-user split, a tenth each for valid and test, seed 0; "
        f"histories come from train. At most {given.users:,} users, each with their top item.",
        "In brackets: 95 % bootstrap interval over users. ↓ lower is better, ↑ higher is better. Ke = 5: the five most "
        "important history items. Formulas: palate/explanation/measures.py.",
        "Published, MLP, Ke = 5 (SIGIR 2025): cdcg LXR 0.798, LIME 0.822, cosine 0.840; pos@5 0.902, 0.940, 0.935; "
        "del 0.917, 0.926, 0.935; ins 0.859, 0.819, 0.812. Models and users differ, so they are no comparison.",
        *(f"{name}: {SETTINGS[name].config}; {line}" for name, line in quality.items()),
        *(line for name, found in results.items() for line in requirements(name, found)),
    ]  # fmt: skip
    header = ["model", "method", "cdcg@5 ↓", "pos@5,5 ↓", "del@5 ↓", "ins@5 ↑", "cdcg@5 - cosine's"]
    header += ["pos-p@5 ↓", "neg-p@5 ↑", "del-p ↓", "ins-p ↑", "seed stability", "ms each"]
    table = [line for name, found in results.items() for line in table_rows(name, found)]
    write_result(
        f"fidelity_{given.data.replace('-', '_')}{given.suffix}",
        f"Fidelity of explanations: {given.data}",
        about,
        header,
        table,
    )


def measure(name: str, fitted: Recommender, parts: Any, given: argparse.Namespace) -> Fidelity:
    """The fidelity of one model's explainers."""
    setting = SETTINGS[name]
    return fidelity(
        fitted.model, parts.train, given.methods, users=given.users, samples=given.samples or setting.samples,
        lengths=setting.lengths, percent=setting.percent, stable=min(setting.stable, given.users), name=name,
        on_method=lambda method, seconds: print(f"{name} {method}: {seconds:.0f} s", flush=True),
    )  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Train or load each model, measure it, and write the table again after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="ml-1m", choices=["ml-1m", "ml-100k"])
    parser.add_argument("--models", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", help="explainers; default: all that are available for each model")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--samples", type=int, help="masks of shap and lime; default: the model's setting")
    parser.add_argument("--epochs", type=int, help="most epochs; default: the model's setting")
    parser.add_argument("--keep", type=Path, help="folder of trained models; default: runs/fidelity/DATA")
    parser.add_argument("--suffix", default="", help="suffix of the result's file name")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(words)
    torch.set_num_threads(given.threads)
    parts = liked_items(given.data).split("per-user", valid=0.1, test=0.1, seed=0)
    keep = given.keep or Path("runs") / "fidelity" / given.data
    results: dict[str, Fidelity] = {}
    quality: dict[str, str] = {}
    for name in given.models:
        fitted = train_or_load(name, parts, keep, given.epochs)
        ndcg = fitted.evaluate(parts.test, ["ndcg@10"])["ndcg@10"]
        samples = given.samples or SETTINGS[name].samples
        quality[name] = f"ndcg@10 on test {ndcg}; {samples} masks for shap and lime"
        results[name] = measure(name, fitted, parts, given)
        report(given, results, quality)


if __name__ == "__main__":
    main()
