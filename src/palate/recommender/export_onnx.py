"""Export to ONNX: a folder that answers known users and histories with onnxruntime and numpy alone.

    scorer.onnx         the scorer (`palate.recommender.onnx_scorers`): its inputs are user, history, or both
    users.json          ids of the users in index order; likewise items.json
    seen_offsets.npy    int64 `[users + 1]`: the history of user u is seen_items[seen_offsets[u]:seen_offsets[u + 1]]
    seen_items.npy      int64, item indices, oldest first
    about.json          the model, what the scorer answers, versions, and what the comparison with PyTorch found

The folder is compared with the model before it takes its name: scores to `TOLERANCE`, lists but for ties.
`examples/onnx_client.py` reads it.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import palate
from palate.data.ids import IdMap
from palate.data.queries import Queries
from palate.data.ragged import Ragged
from palate.device import on_device
from palate.errors import ArtifactError
from palate.extras import missing_extra
from palate.models.base import Model
from palate.ranking.topk import rank
from palate.recommender.artifact import Artifact
from palate.recommender.id_translation import from_users
from palate.recommender.onnx_scorers import Scorer, scorer_of

TOLERANCE = 1e-4
"""Largest allowed difference between a score of the export and one of the model, and between two tied scores."""
CHECKED_USERS, CHECKED_LENGTH, USERS_PER_CHECK = 1000, 10, 32
"""Users whose scores and lists are compared, length of these lists, users scored at once."""
MAX_EMBEDDED_BYTES = 1_500_000_000
"""Larger weights are in a file beside the graph: an ONNX file itself holds less than 2 GB."""
SCORER, ABOUT = "scorer.onnx", "about.json"
OWN_FILES = {SCORER, ABOUT, f"{SCORER}.data", "users.json", "items.json", "seen_offsets.npy", "seen_items.npy"}
"""What an export holds, and a new one replaces."""


def export_onnx(rec: Artifact, out: str | Path) -> dict[str, Any]:
    """Write a recommender as an ONNX scorer, with ids and histories; see the module.

    Args:
        rec: A recommender.
        out: The folder. An earlier export is replaced once the new one is complete and agrees with the model.

    Returns:
        What `about.json` holds; `checked` says how many users were compared, the largest difference of a score, and
        how many lists differ by ties.

    Raises:
        CannotAnswer: There is no scorer for this model.
        MissingExtra: The extra `onnx` is not installed.
        ArtifactError: The folder holds something else or cannot be written, or the export disagrees with the model.
    """
    _require_onnx()
    out = Path(out).resolve()
    others = [file.name for file in out.iterdir() if file.name not in OWN_FILES] if out.is_dir() else []
    if out.is_file() or others:
        raise ArtifactError(f"{out} exists and is not an ONNX export; nothing was written. Name another folder")
    with on_device(rec.model, None, "cpu"):
        return _export(rec, out)


def _export(rec: Artifact, out: Path) -> dict[str, Any]:
    """As `export_onnx`, of a model on the CPU into a folder that may be replaced."""
    users = from_users(rec.known, rec.model.spec, np.arange(rec.known.n_users), rec.data)
    scorer = scorer_of(rec.model, users)
    new = out.with_name(f".{out.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        _write_scorer(scorer, new / SCORER)
        _write_tables(rec.known.users, rec.data.items, users.history, new)
        about = {
            "format": 1, "model": rec.name, "reads": list(scorer.reads), "answers": sorted(scorer.answers),
            "users": len(users), "items": rec.data.n_items, "data": rec.data.fingerprint,
            "versions": {"palate": palate.__version__, "torch": str(torch.__version__)},
            "checked": _compare(rec.model, users, scorer, new),
        }  # fmt: skip
        (new / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    except OSError as error:
        raise ArtifactError(f"cannot write {out}: {error.strerror or error}; name another folder") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return about


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra(f"export to ONNX needs {error.name}", "onnx") from error


def _write_scorer(scorer: Scorer, file: Path) -> None:
    """Trace the scorer with a free number of queries and length of histories."""
    example = {"user": torch.zeros(2, dtype=torch.int64), "history": torch.tensor([[0, 0, -1], [0, -1, -1]])}
    free = {"user": {0: "queries"}, "history": {0: "queries", 1: "length"}}
    size = sum(each.numel() * each.element_size() for each in [*scorer.parameters(), *scorer.buffers()])
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        # The exporter warns of its own deprecated parts.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                scorer, tuple(example[name] for name in scorer.reads), str(file), input_names=list(scorer.reads),
                output_names=["scores"], dynamic_shapes=tuple(free[name] for name in scorer.reads), dynamo=True,
                external_data=size > MAX_EMBEDDED_BYTES, verbose=False,
            )  # fmt: skip
    finally:
        quiet.setLevel(level)


def _write_tables(users: IdMap, items: IdMap, histories: Ragged, folder: Path) -> None:
    for name, known in (("users", users), ("items", items)):
        (folder / f"{name}.json").write_text(json.dumps(known.ids.to_list(), ensure_ascii=False), encoding="utf-8")
    np.save(folder / "seen_offsets.npy", histories.offsets.numpy(), allow_pickle=False)
    np.save(folder / "seen_items.npy", histories.values.numpy(), allow_pickle=False)


def _compare(model: Model, users: Queries, scorer: Scorer, folder: Path) -> dict[str, Any]:
    """Compare scores and lists of evenly spaced users, of those whom the scorer answers.

    Raises:
        ArtifactError: A score differs by more than `TOLERANCE`, relative to the largest score of the user if that is
            above 1; or a list differs by more than ties.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / SCORER), providers=["CPUExecutionProvider"])
    rows = (scorer.known_U if "history" not in scorer.reads else users.history.lengths > 0).nonzero().squeeze(1)
    rows = rows[torch.linspace(0, len(rows) - 1, min(CHECKED_USERS, len(rows))).long()]
    k, worst, tied = min(CHECKED_LENGTH, model.spec.n_items), 0.0, 0
    for row_B in rows.split(USERS_PER_CHECK):  # type: ignore[no-untyped-call]
        queries = users.take(row_B)
        history = queries.history
        inputs = {"user": row_B, "history": history.padded(max(int(history.lengths.max()), 1), -1)}
        [found] = session.run(None, {name: inputs[name].numpy() for name in scorer.reads})
        expected = model.score(queries).numpy()
        scale = np.maximum(np.abs(expected).max(1), 1)
        worst = max(worst, float((np.abs(found - expected).max(1) / scale).max()))
        ranked = rank(model, queries, k)
        found[history.row_of_value.numpy(), history.values.numpy()] = -np.inf
        order = np.argsort(-found, axis=1, kind="stable")[:, :k]
        listed = np.where(np.take_along_axis(found, order, 1) > -np.inf, order, -1)
        for row in np.flatnonzero((listed != ranked.items.numpy()).any(1)):
            ours = np.where(listed[row] >= 0, expected[row][listed[row]], -np.inf)
            theirs = ranked.scores[row].numpy()
            same_end = (ours == -np.inf) == (theirs == -np.inf)
            close = np.abs(np.where(ours > -np.inf, ours - theirs, 0)) <= 2 * TOLERANCE * scale[row]
            if not (same_end & close).all():
                raise ArtifactError(f"the ONNX scorer lists other items than the model for user {int(row_B[row])}")
            tied += 1
    if worst > TOLERANCE:
        raise ArtifactError(f"the scores of the ONNX scorer differ from the model's by up to {worst:.2g}")
    return {"users": len(rows), "largest_difference": worst, "lists_that_differ_by_ties": tied}
