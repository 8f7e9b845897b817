"""The card of a run: what it was trained on, how good it is, what it is not for."""

from __future__ import annotations

import inspect
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import to_dict
from palate.errors import PalateError
from palate.evaluation.metrics import METRICS
from palate.evaluation.protocol import Protocol
from palate.explanation import EXPLAINERS
from palate.recommender.evaluation_file import EVALUATION
from palate.serving.logs import timestamp
from palate.serving.served import Served
from palate.training.train_run import best_epoch

PROTOCOL = "protocol.json"
"""File in a run's folder: how it was split."""
MAX_BYTES = 1 << 24
"""Larger files are not read."""
LOWER_IS_BETTER = ("rmse", "mae", "gini")


def card(served: Served) -> dict[str, Any]:
    """The card, as GET /v1/models gives it."""
    return {**_lasting(served), "age_s": max(0, int(time.time() - served.saved_at))}


@lru_cache(maxsize=16)
def _lasting(served: Served) -> dict[str, Any]:
    """What does not change while a run is served."""
    rec = served.rec
    model, records = rec.model, rec.records
    best = best_epoch(records)
    measured = _read(served.folder, EVALUATION)
    return {
        "name": served.name,
        "model": rec.name,
        "class": type(model).__name__,
        "description": (inspect.getdoc(type(model)) or "").split("\n")[0],
        "model_id": served.model_id,
        "saved_at": timestamp(served.saved_at),
        "loaded_at": timestamp(served.loaded_at),
        "answers": sorted(model.answers),
        "needs": sorted(model.needs),
        "config": to_dict(model.config),
        "training": to_dict(rec.training),
        "data": _data(served),
        "parts": {name: len(part) for name, part in rec.parts.items()},
        "protocol": _protocol(served.folder),
        **_measured(measured, served.model_id.partition("+")[0]),
        "learning_curve": [
            {
                "epoch": one.epoch, "loss": one.loss, "loss_name": one.loss_name, "member": one.member,
                "valid": dict(one.valid), "valid_loss": one.valid.get("loss"), "seconds": round(one.seconds, 3),
            }
            for one in records
        ],
        "best_epoch": None if best is None else best.epoch,
        "retrieval": {
            "method": "exact" if served.index is None else "faiss",
            "recall": served.recall,
            "items": rec.data.n_items,
        },
        "fold_in": served.folds_in,
        "explain_methods": list(EXPLAINERS),
        "limits": _limits(served),
    }  # fmt: skip


def _data(served: Served) -> dict[str, Any]:
    data = served.rec.data
    ratings = None
    if data.rating is not None and data.rating_scale is not None:
        mean = float(np.mean(data.rating, dtype=np.float64))
        ratings = {"low": data.rating_scale[0], "high": data.rating_scale[1], "mean": round(mean, 3)}
    first = last = None
    if data.timestamp is not None and len(data):
        ends = (int(data.timestamp.min()), int(data.timestamp.max()))
        first, last = (str(np.datetime64(one, "s").astype("datetime64[D]")) for one in ends)
    return {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(data),
        "ratings": ratings,
        "first": first,
        "last": last,
        "item_columns": [] if data.item_table is None else data.item_table.columns[1:],
        "user_columns": [] if data.user_table is None else data.user_table.columns[1:],
        "notes": list(data.notes),
        "fingerprint": data.fingerprint,
    }


def _read(folder: Path | None, name: str) -> Any:
    """A JSON file of the run's folder; None if there is none that can be read."""
    if folder is None:
        return None
    try:
        path = folder / name
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _protocol(folder: Path | None) -> dict[str, Any] | None:
    try:
        found = _read(folder, PROTOCOL)
        protocol = None if found is None else Protocol.from_dict(found)
    except PalateError:
        return None
    if protocol is None:
        return None
    return {
        "hash": protocol.hash,
        "split": protocol.split,
        "split_options": dict(protocol.split_options),
        "candidates": protocol.candidates,
        "metrics": list(protocol.metrics),
        "filters": list(protocol.filters),
    }


def _measured(found: Any, run: str) -> dict[str, Any]:
    """Metrics, slices, routes and baselines of the file that `palate evaluate --save` or the demo wrote."""
    nothing: dict[str, Any] = dict.fromkeys(("metrics", "slices", "routes", "baselines", "protocol_hash"))
    nothing["metrics_note"] = "Not evaluated yet: run palate evaluate RUN --save, then serve again."
    try:
        models = found["models"]
        if not found["run"].startswith(run):  # of another run, whose place this one took
            return nothing
        ours = models[found["model"]]
        slices = [_slice(name, one) for name, one in ours["slices"].items()]
        others = [
            {"name": str(name), "metrics": _slice("all", one["slices"]["all"])["metrics"]}
            for name, one in models.items()
            if one is not ours
        ]
    except (TypeError, KeyError, ValueError, AttributeError):
        return nothing
    return {
        "metrics": slices[0]["metrics"],
        "metrics_note": "On the test part, which no setting was chosen on. Intervals: 95 %, bootstrap over users.",
        "protocol_hash": ours.get("hash"),
        "slices": slices,
        "routes": ours.get("routes"),
        "baselines": others or None,
    }


def _slice(name: str, one: Any) -> dict[str, Any]:
    metrics = [
        {
            "metric": str(metric), "value": float(e["value"]), "low": float(e["low"]), "high": float(e["high"]),
            "n": int(e["n"]), "better": "lower" if str(metric).split("@")[0] in LOWER_IS_BETTER else "higher",
        }
        for metric, e in one["estimates"].items()
        if str(metric).split("@")[0] in METRICS or str(metric) in METRICS
    ]  # fmt: skip
    return {"slice": name, "rows": int(one["rows"]), "users": int(one["users"]), "metrics": metrics}


def _limits(served: Served) -> list[str]:
    """What the run cannot do, as sentences."""
    model, data = served.rec.model, served.rec.data
    found = []
    if data.timestamp is not None and len(data):
        found.append(f"Trained on data up to {_data_until(served)}: tastes and items since then are not in it.")
    if not served.folds_in:
        found.append("Feedback only leaves items out: this model cannot use it without training again.")
    if "new_item" not in model.answers:
        found.append("New items cannot be recommended until the model is trained again.")
    if "rating" not in model.answers:
        found.append("It ranks items and does not predict ratings.")
    return found


def _data_until(served: Served) -> str:
    last = served.rec.data.timestamp
    return "" if last is None else str(np.datetime64(int(last.max()), "s").astype("datetime64[D]"))
