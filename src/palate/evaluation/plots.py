"""Plots of evaluations as PNG bytes: metric bars, learning curves, concentration of the recommendations.

Plots need matplotlib (the extra `plots`), which is imported only when a plot is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from palate.evaluation.metrics import METRICS
from palate.evaluation.result import Evaluation, number
from palate.extras import missing_extra
from palate.training.train_run import Epoch, best_epoch

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#5F5F5F")
"""The palette of Okabe and Ito, which suits any colour vision, without its yellow; and two more colours."""
DASHES = ("-", "--", "-.", ":")
INK, PALE = "#333333", "#9A9A9A"


def metric_bars(evaluations: Mapping[str, Evaluation], metrics: Sequence[str]) -> bytes:
    """One panel for each metric: a bar and its 95 % interval for each model that has it, the first model on top.

    Args:
        evaluations: The evaluation of each model, by its name.
        metrics: The metrics to show, in order.

    Returns:
        The picture as PNG.
    """
    names = list(evaluations)
    figure, axes = panels(len(metrics), 3.4, 0.75 + 0.32 * len(names))
    for axis, metric in zip(axes, metrics, strict=False):
        rows = [(name, evaluations[name].estimates.get(metric)) for name in reversed(names)]
        for place, (_, estimate) in enumerate(rows):
            colour = COLOURS[(len(names) - 1 - place) % len(COLOURS)]
            if estimate is None:
                axis.text(0, place, " not measured", va="center", fontsize=8, color=PALE)
                continue
            axis.barh(place, estimate.value, height=0.66, color=colour, alpha=0.85)
            if not math.isnan(estimate.low):
                axis.plot(
                    [estimate.low, estimate.high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt"
                )
            end = max(estimate.value, 0 if math.isnan(estimate.high) else estimate.high)
            axis.text(end, place, "  " + number(estimate.value), va="center", fontsize=8, color=INK)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.margins(x=0.28)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(_locator(4))
        axis.set_title(_title(metric), fontsize=10, loc="left")
    return to_png(figure, axes)


def learning_curves(records: Mapping[str, Sequence[Epoch]]) -> bytes:
    """Training and validation loss by epoch and, beside them, the validation metric; the chosen epoch is marked.

    Args:
        records: Epochs of each model. A model that trains others (a blend) gets a row of panels for each member.
    """
    runs = training_runs(records)
    figure, axes = panels(2 * len(runs), 4.8, 2.6, across=2)
    for row, (name, epochs) in enumerate(runs.items()):
        left, right = axes[2 * row], axes[2 * row + 1]
        _loss_curves(left, name, epochs)
        metrics = [m for m in epochs[-1].valid if m != "loss"]
        for place, metric in enumerate(metrics):
            _curve(right, epochs, [e.valid.get(metric, math.nan) for e in epochs], 1 + place, "valid")
        right.set_title(f"{name}: {', '.join(metrics) or 'no validation metric'}", fontsize=10, loc="left")
        best = best_epoch(epochs)
        for axis in (left, right):
            axis.set_xlabel("epoch", fontsize=9)
            axis.xaxis.set_major_locator(_locator(8, integer=True))
            axis.margins(x=0.04, y=0.12)
            if best is not None:
                axis.axvline(best.epoch, color=INK, linewidth=1, linestyle=":", label=f"chosen: {best.epoch}")
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=8, frameon=False)
    return to_png(figure, axes)


def training_runs(records: Mapping[str, Sequence[Epoch]]) -> dict[str, list[Epoch]]:
    """The epochs of each training run: of each model or, if a model trains others (a blend), of each of its members."""
    return {
        f"{name}, {member}" if member else name: [e for e in epochs if e.member == member]
        for name, epochs in records.items()
        for member in dict.fromkeys(e.member for e in epochs)
    }


def _loss_curves(axis: Any, name: str, epochs: Sequence[Epoch]) -> None:
    """Training and validation loss on one axis: both are the quantity that the axis is labelled with."""
    _curve(axis, epochs, [e.loss for e in epochs], 0, "train")
    if any("loss" in e.valid for e in epochs):
        _curve(axis, epochs, [e.valid.get("loss", math.nan) for e in epochs], 1, "valid")
    axis.set_title(f"{name}: loss", fontsize=10, loc="left")
    axis.set_ylabel("\n".join(wrap(epochs[-1].loss_name, 32)), fontsize=9)


def _curve(axis: Any, epochs: Sequence[Epoch], values: Sequence[float], colour: int, label: str) -> None:
    marker, line = ("o", "-") if label == "train" else ("s", "--")
    x = [e.epoch for e in epochs]
    axis.plot(x, values, color=COLOURS[colour], marker=marker, markersize=3, linestyle=line, label=label)


def concentration(evaluations: Mapping[str, Evaluation]) -> bytes:
    """The share of all recommendations that the most recommended items get, by their share of the catalogue."""
    figure, axes = panels(1, 6.4, 4.2)
    axis = axes[0]
    first = next(iter(evaluations.values()))
    x, y = _cumulative(first.popularity)
    axis.plot(x, y, color=PALE, linewidth=2.5, label="interactions in train")
    for place, (name, evaluation) in enumerate(evaluations.items()):
        x, y = _cumulative(evaluation.exposure)
        style = DASHES[place // len(COLOURS) % len(DASHES)]
        axis.plot(x, y, color=COLOURS[place % len(COLOURS)], linewidth=1.6, linestyle=style, label=name)
    axis.plot(x, x, color=PALE, linewidth=0.8, linestyle=":", label="all items equally")
    axis.set_xscale("log")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axis.set_xlabel("share of the catalogue, most recommended first (log scale)", fontsize=9)
    axis.set_ylabel("share of recommendations", fontsize=9)
    axis.set_xlim(x[0], 1)
    axis.set_ylim(0, 1.02)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    axis.set_title("How concentrated recommendations are", fontsize=10, loc="left")
    return to_png(figure, axes)


def _cumulative(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ordered = np.sort(counts)[::-1].astype(np.float64)
    return np.arange(1, len(ordered) + 1) / len(ordered), np.cumsum(ordered) / max(ordered.sum(), 1.0)


def _title(metric: str) -> str:
    better = METRICS[metric.partition("@")[0]].better
    return metric + (f" ({better} is better)" if better else "")


def panels(count: int, width: float, height: float, across: int | None = None) -> tuple[Any, list[Any]]:
    """A figure and its panels, row by row; fewer panels in the last row share its whole width.

    Args:
        count: Number of panels.
        width, height: Size of a panel, in inches.
        across: Panels in a row. Defaults to 3, or 2 for four panels.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("plots need matplotlib", "plots") from error
    across = min(count, across or (2 if count == 4 else 3))
    rows = [min(across, count - start) for start in range(0, count, across)]
    columns = math.lcm(across, rows[-1])
    figure = Figure(figsize=(width * across, max(height, 1.3) * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), columns)
    places = [(row, place, columns // inside) for row, inside in enumerate(rows) for place in range(inside)]
    return figure, [figure.add_subplot(grid[row, place * wide : (place + 1) * wide]) for row, place, wide in places]


def _locator(count: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=integer)


def to_png(figure: Any, axes: Sequence[Any]) -> bytes:
    """The figure as a PNG."""
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=INK)
    out = io.BytesIO()
    # No software name and no date in the file, so that equal data give equal bytes.
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return out.getvalue()
