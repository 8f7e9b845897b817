"""Plots of the results of `fidelity` and `summarise`, as PNG bytes. They need matplotlib, the `plots` extra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from palate.evaluation.plots import COLOURS, DASHES, INK, PALE, panels, to_png
from palate.explanation.fidelity_result import Fidelity
from palate.explanation.measures import PERCENT_PARTS
from palate.explanation.orders import ORDERS
from palate.explanation.plots import cut
from palate.explanation.summary import Summary

MAX_BARS = 12
"""Bars in a panel."""
MAX_CURVES = 7
"""Curves of partial dependence, those with the largest range."""
MAX_LABEL = 34
"""Characters of a label."""


def fidelity_picture(found: Fidelity) -> bytes:
    """Deletion and insertion curves, and the median rank along the deletion; orders without a model are dashed."""
    figure, axes = panels(3, 4.3, 3.6)
    share = np.linspace(0, 100, PERCENT_PARTS + 1)
    curves = (
        ("without", "most important items removed (lower is better)", "confidence"),
        ("alone", "most important items alone (higher is better)", "confidence"),
        ("rank", "most important items removed (higher is better)", "median rank"),
    )
    for axis, (name, title, label) in zip(axes, curves, strict=True):
        for place, method in enumerate(found.ranked()):
            colour = PALE if method in ORDERS else COLOURS[place % len(COLOURS)]
            style = DASHES[1 + list(ORDERS).index(method)] if method in ORDERS else "-"
            axis.plot(
                share, getattr(found.curves[method], name), color=colour, linestyle=style, linewidth=1.6, label=method
            )
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel("percent of the history", fontsize=9)
        axis.set_ylabel(label, fontsize=9)
    axes[2].set_yscale("log")
    axes[2].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0].legend(fontsize=8, frameon=False)
    return to_png(figure, axes)


def summary_picture(summary: Summary) -> bytes:
    """The history items, features and words that contribute most, and a partial dependence curve for each number."""
    history, features = summary.history.head(MAX_BARS), summary.features.head(MAX_BARS)
    curves = summary.dependence.partition_by("side", "column", maintain_order=True)
    curves = sorted(curves, key=lambda curve: -float(np.ptp(curve["change"].to_numpy())))[:MAX_CURVES]
    count = bool(history.height) + bool(features.height) + len(curves)
    figure, axes = panels(max(count, 1), 5.2, 0.9 + 0.27 * max(history.height, features.height, 8))
    left = iter(axes)
    if history.height:
        axis = next(left)
        _bars(axis, history["title"].to_list(), 100 * history["share"].to_numpy(), COLOURS[0])
        axis.set_xlabel("percent of the contributions of all history items", fontsize=9)
        axis.set_title(f"History items: {summary.users:,} users", fontsize=10, loc="left")
    if features.height:
        axis = next(left)
        _bars(axis, _names(features), features["mean_abs"].to_numpy(), COLOURS[1])
        axis.set_xlabel("mean |contribution|", fontsize=9)
        axis.set_title("Features of users and items", fontsize=10, loc="left")
    for curve in curves:
        axis = next(left)
        axis.plot(curve["value"], curve["change"], color=COLOURS[2], marker="o", markersize=3)
        axis.axhline(0, color=PALE, linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"{curve['side'][0]}'s {curve['column'][0]}", fontsize=9)
        axis.set_ylabel("change in mean score", fontsize=9)
        axis.set_title(f"Partial dependence: {curve['column'][0]}", fontsize=10, loc="left")
    return to_png(figure, axes)


def _bars(axis: Any, names: Sequence[str], values: np.ndarray, colour: str) -> None:
    """Horizontal bars with their values, the first on top."""
    place = np.arange(len(names))[::-1]
    axis.barh(place, values, height=0.66, color=colour, alpha=0.85)
    for y, value in zip(place, values, strict=True):
        axis.text(value, y, f" {value:.3g}", va="center", fontsize=8, color=INK)
    axis.set_yticks(place, [cut(name, MAX_LABEL) for name in names])
    axis.margins(x=0.14)
    axis.set_xlim(left=0)


def _names(features: pl.DataFrame) -> list[str]:
    rows = features.select("kind", "column", "word").rows()
    return [f"'{word}' ({column})" if word is not None else column for _, column, word in rows]
