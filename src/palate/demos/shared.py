"""What both demos do: load data, train models with a progress bar, print a table of results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.errors import SourceError
from palate.evaluation.evaluate import Evaluation
from palate.evaluation.result import aligned, number
from palate.extras import install_command
from palate.recommender.recommender import Recommender
from palate.training.callbacks import Progress

SYNTHETIC = "synthetic"
"""The data set that is used if another cannot be downloaded."""


@dataclass(frozen=True)
class DemoModel:
    """A model of a demo: its name in `MODELS`, its settings and its training settings, chosen on the valid part."""

    model: str
    config: Mapping[str, Any]
    training: Mapping[str, Any]


def note_missing_pictures() -> None:
    """Say, before anything is trained, that the report will have no pictures, if that is so."""
    if find_spec("matplotlib") is None:
        command = install_command("plots")
        print(f"The report will have no pictures because matplotlib is not installed: {command}")


def load_or_synthetic(name: str) -> Dataset:
    """A data set by name; the synthetic one, with a message, if it cannot be downloaded."""
    print(f"Loading {name}")
    try:
        return Dataset.load(name)
    except SourceError as error:
        print(f"  {error}")
        print("  NO DOWNLOAD: the demo continues with the synthetic data set, whose users and films are invented.")
        return Dataset.load(SYNTHETIC)


def train(name: str, model: DemoModel, parts: Split, seed: int) -> tuple[Recommender, float]:
    """Train one model with a progress bar; returns it and the seconds it took."""
    start = time.perf_counter()
    with Progress() as progress:
        found = Recommender.train(
            parts.train,
            model.model,
            model.config,
            model.training,
            parts.valid,
            seed,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
        )
    seconds = time.perf_counter() - start
    print(f"{name}: trained in {seconds:.1f} s")
    return found, seconds


def results_table(evaluations: Mapping[str, Evaluation], metrics: Sequence[str], note: str) -> list[str]:
    """Lines of a table with a row for each model, and a note."""
    rows = [[name, *(_cell(evaluation, metric) for metric in metrics)] for name, evaluation in evaluations.items()]
    return [*aligned(["model", *metrics], rows), "", note]


def _cell(evaluation: Evaluation, metric: str) -> str:
    found = evaluation.estimates.get(metric)
    return "-" if found is None else f"{number(found.value)} ±{(found.high - found.low) / 2:.4f}"
