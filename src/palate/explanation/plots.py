"""Plots of one explanation: signed bars, a text with its words shaded, a heat map over an image.

PNG bytes need matplotlib, the `plots` extra, which is imported only when a plot is made. HTML needs nothing.

Legend: C channels, H height, W width.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from palate.errors import CannotAnswer
from palate.evaluation.plots import COLOURS, INK, PALE, panels, to_png
from palate.explanation.explanation import STANDARD_ERRORS, Contribution, Explanation

POSITIVE, NEGATIVE = COLOURS[0], COLOURS[1]
"""Blue raises the score, orange lowers it."""
MAX_OPACITY = 0.75
"""Opacity of the largest contribution's shade."""
LINE_LENGTH = 74
"""Characters in a line of a plotted text."""


def bars(explanation: Explanation, top: int = 12) -> bytes:
    """Plot the largest contributions as bars, with one bar for all others and one for the residual.

    Args:
        explanation: Any explanation.
        top: How many contributions have a bar of their own.
    """
    contributions = explanation.of()
    rows = [(cut(c.label), c.value, c.error) for c in contributions[:top]]
    rest = contributions[top:]
    if rest:
        rows.append((f"{len(rest)} others", sum(c.value for c in rest), sum(c.error**2 for c in rest) ** 0.5))
    rows.append(("residual", explanation.residual, 0.0))
    figure, axes = panels(1, 7.2, 1.15 + 0.28 * len(rows))
    axis = axes[0]
    reach = max([abs(value) + STANDARD_ERRORS * error for _, value, error in rows] + [1e-12])
    for place, (name, value, error) in enumerate(reversed(rows)):
        colour = PALE if name == "residual" else POSITIVE if value > 0 else NEGATIVE
        axis.barh(place, value, height=0.66, color=colour, alpha=0.85)
        if error:
            ends = [value - STANDARD_ERRORS * error, value + STANDARD_ERRORS * error]
            axis.plot(ends, [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
        side = 1 if value >= 0 else -1
        end = value + side * (STANDARD_ERRORS * error + 0.02 * reach)
        axis.text(
            end,
            place,
            f"{value:+.3g}" if abs(value) > 1e-6 * reach else "0",
            va="center",
            ha="left" if side > 0 else "right",
            fontsize=8,
            color=INK,
        )
    axis.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axis.axvline(0, color=INK, linewidth=0.8)
    low, high = (
        min(0.0, *(v - STANDARD_ERRORS * e for _, v, e in rows)),
        max(0.0, *(v + STANDARD_ERRORS * e for _, v, e in rows)),
    )
    axis.set_xlim(low - (0.22 * reach if low < 0 else 0.04 * reach), high + 0.22 * reach)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel("contribution to the score; lines are intervals of two standard errors", fontsize=9)
    axis.set_title(
        f"{cut(explanation.label, 50)}: score {explanation.score:.3g}, {explanation.base:.3g} without contributions "
        f"({explanation.method})",
        fontsize=10,
        loc="left",
    )
    return to_png(figure, axes)


def shaded_html(explanation: Explanation, tokens: Sequence[str], column: str) -> str:
    """A text as HTML, each word on a shade of blue (raises the score) or orange (lowers it).

    Args:
        explanation: With words as players.
        tokens: The text's words in order.
        column: The text's column.

    Raises:
        CannotAnswer: The explanation has no words of this column.
    """
    spans = []
    for token, value, share in _shades(explanation, tokens, column):
        red, green, blue = (int(_colour(value)[i : i + 2], 16) for i in (1, 3, 5))
        style = f"background: rgba({red}, {green}, {blue}, {share:.2f}); border-radius: 3px; padding: 1px 2px"
        spans.append(f'<span style="{style}" title="{value:+.4f}">{html.escape(token)}</span>')
    return (
        f'<figure style="font: 16px/1.9 sans-serif; max-width: 46em">\n<p>{" ".join(spans)}</p>\n'
        f"<figcaption>{html.escape(explanation.label)}: words of its {html.escape(column)} that raise the score "
        f"(blue) or lower it (orange), by {html.escape(explanation.method)}</figcaption>\n</figure>\n"
    )


def shaded(explanation: Explanation, tokens: Sequence[str], column: str) -> bytes:
    """The same as a PNG; arguments and errors as of `shaded_html`."""
    lines: list[list[tuple[str, float, float]]] = [[]]
    for token, value, share in _shades(explanation, tokens, column):
        if sum(len(t) + 1 for t, _, _ in lines[-1]) + len(token) > LINE_LENGTH and lines[-1]:
            lines.append([])
        lines[-1].append((token, value, share))
    figure, axes = panels(1, 7.6, 0.8 + 0.3 * len(lines))
    axis = axes[0]
    for row, line in enumerate(lines):
        place = 0
        for token, value, share in line:
            axis.text(
                place, -row, token, family="monospace", fontsize=9, va="center", color=INK,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": _colour(value), "alpha": share, "linewidth": 0},
            )  # fmt: skip
            place += len(token) + 1
    axis.set_xlim(-0.5, LINE_LENGTH)
    axis.set_ylim(-len(lines) + 0.4, 0.7)
    axis.set_axis_off()
    axis.set_title(
        f"{cut(explanation.label, 44)}: words of its {column}; blue raises, orange lowers ({explanation.method})",
        fontsize=10,
        loc="left",
    )
    return to_png(figure, axes)


def heat_map(explanation: Explanation, image: np.ndarray, column: str) -> bytes:
    """An image, and beside it the image in grey under its regions' contributions.

    Args:
        explanation: With regions as players.
        image: uint8 `[C, H, W]`.
        column: The image's column.

    Raises:
        CannotAnswer: The explanation has no regions of this column.
    """
    regions = [c for c in explanation.of("region") if c.key[0] == column]
    if not regions:
        raise CannotAnswer(f"the explanation has no regions of {column}; ask for kinds=['region'] (--by region)")
    value_HW = np.zeros(image.shape[1:])
    for c in regions:
        top, left, bottom, right = c.key[1]
        value_HW[top:bottom, left:right] = c.value
    picture = np.repeat(image, 3, axis=0) if len(image) == 1 else image
    reach = max(float(np.abs(value_HW).max()), 1e-12)
    ratio = image.shape[1] / image.shape[2]
    figure, axes = panels(2, 3.6, 3.0 * ratio + 0.7)
    axes[0].imshow(picture.transpose(1, 2, 0))
    axes[0].set_title(cut(explanation.label, 34), fontsize=10, loc="left")
    axes[1].imshow(picture.mean(0), cmap="gray", vmin=-60, vmax=255)
    shown = axes[1].imshow(
        value_HW,
        cmap=_colour_map(),
        vmin=-reach,
        vmax=reach,
        interpolation="bilinear",
        alpha=0.3 + 0.5 * np.abs(value_HW) / reach,
    )
    axes[1].set_title(f"blue raises the score, orange lowers it ({explanation.method})", fontsize=9, loc="left")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(shown, ax=axes[1], shrink=0.8).ax.tick_params(labelsize=7)
    return to_png(figure, axes)


def _colour_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [NEGATIVE, "#FFFFFF", POSITIVE])


def _shades(explanation: Explanation, tokens: Sequence[str], column: str) -> list[tuple[str, float, float]]:
    """Each word with its contribution and the opacity of its shade."""
    value_of: dict[str, Contribution] = {c.label: c for c in explanation.of("word") if c.key[0] == column}
    if not value_of:
        raise CannotAnswer(f"the explanation has no words of {column}; ask for kinds=['word'] (--by word)")
    reach = max(abs(c.value) for c in value_of.values()) or 1.0
    values = [value_of[token].value if token in value_of else 0.0 for token in tokens]
    return [(t, v, MAX_OPACITY * abs(v) / reach) for t, v in zip(tokens, values, strict=True)]


def _colour(value: float) -> str:
    return POSITIVE if value >= 0 else NEGATIVE


def cut(text: str, width: int = 40) -> str:
    """A text shortened to `width` characters."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
