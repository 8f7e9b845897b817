"""`palate export RUN --onnx OUT` and `palate export vectors RUN --out DIR`: what other software can use."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from palate.cli import suggested
from palate.errors import ConfigError
from palate.recommender.export_onnx import export_onnx
from palate.recommender.recommender import Recommender
from palate.recommender.vectors import export_vectors

export = App(name="export", help="Export a trained recommender as an ONNX scorer, or its vectors as Parquet.")


@export.default
def onnx_scorer(run: Path, *, onnx: Path | None = None) -> None:
    """Export a trained recommender as an ONNX scorer, with ids and histories; or its vectors (export vectors).

    The export is compared with the model before it is kept.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        onnx: Folder for the scorer, its ids and histories.
    """
    if onnx is None:
        raise ConfigError(
            f"say what to export: {suggested('export', run)} --onnx OUT, or {suggested('export', 'vectors', run)} "
            "--out DIR"
        )
    about = export_onnx(Recommender.load(run), onnx)
    checked = about["checked"]
    print(
        f"saved {about['model']} as ONNX in {onnx}: {about['users']:,} users, {about['items']:,} items; "
        f"reads {' and '.join(about['reads'])}\n"
        f"compared with PyTorch on {checked['users']:,} users: scores differ by at most "
        f"{checked['largest_difference']:.2g}, {checked['lists_that_differ_by_ties']} lists differ, by ties only"
    )


@export.command
def vectors(run: Path, *, out: Path) -> None:
    """Export the vectors of items and, for models that rank by dot products, of users, as Parquet files.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        out: Folder for items.parquet, users.parquet and vectors.json.
    """
    about = export_vectors(Recommender.load(run), out)
    if about["metric"] == "dot":
        print(
            f"saved {about['items']:,} item vectors and {about['users']:,} user vectors of width {about['width']} in "
            f"{out}; the dot product of a user and an item orders the items as palate recommend does"
        )
    else:
        print(
            f"saved {about['items']:,} item vectors of width {about['width']} in {out}; their cosine is the similarity "
            f"of two items. There are no user vectors: {about['model']} does not rank by dot products"
        )
