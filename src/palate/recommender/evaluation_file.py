"""evaluation.json and evaluation.txt: what was measured of a run, in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from palate.errors import ArtifactError
from palate.evaluation.result import Evaluation
from palate.recommender.artifact_files import CARD, hash_of_file

EVALUATION = "evaluation.json"
"""File in a run's folder, for its model card."""
EVALUATION_TEXT = "evaluation.txt"
"""File in the folder of a run that was trained anew on all rows: what its test part said before."""


def write_measured(folder: Path, model: str, evaluations: Mapping[str, Evaluation]) -> None:
    """Write what the test part said of a run before it was trained anew on all rows, as text and as `write_summary`.

    Args:
        folder: The run's folder.
        model: The run's own name in `evaluations`.
        evaluations: Results under one protocol, by name.

    Raises:
        ArtifactError: A file cannot be written.
    """
    try:
        (folder / EVALUATION_TEXT).write_text(f"{evaluations[model]}\n", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot write {folder / EVALUATION_TEXT}: {error.strerror or error}") from error
    write_summary(folder, model, evaluations)


def write_summary(folder: Path, model: str, evaluations: Mapping[str, Evaluation]) -> None:
    """Write means, intervals and slices of a run and of its baselines; without the values of single users.

    The file names the run by a hash, because it stays in the folder when another run takes its place.

    Args:
        folder: The run's folder.
        model: The run's own name in `evaluations`.
        evaluations: Results under one protocol, by name.

    Raises:
        ArtifactError: The file cannot be written.
    """
    try:
        measured = {name: _summary(one) for name, one in evaluations.items()}
        content = {"run": hash_of_file(folder / CARD), "model": model, "models": measured}
        (folder / EVALUATION).write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"cannot write {folder / EVALUATION}: {error.strerror or error}") from error


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    finite = {
        name: {
            "rows": part.rows,
            "users": part.users,
            # A slice without users has no mean.
            "estimates": {
                metric: asdict(one) for metric, one in part.estimates.items() if one.n and one.value == one.value
            },
        }
        for name, part in evaluation.slices.items()
    }
    return {
        "hash": evaluation.protocol.hash,
        "slices": finite,
        "routes": {route: float(share) for route, share in evaluation.routes.items()},
        "notes": list(evaluation.notes),
    }
