"""EXPLAINERS: methods by name. Why an item got its score, in numbers and words, and how faithful explanations are."""

from __future__ import annotations

from collections.abc import Callable

from palate.explanation.explanation import Explanation
from palate.explanation.gradcam import grad_cam
from palate.explanation.lime import lime
from palate.explanation.methods import exact, gradient, occlusion
from palate.explanation.shapley import shap

__all__ = ["EXPLAINERS", "Explanation"]

EXPLAINERS: dict[str, Callable[..., Explanation]] = {
    "exact": exact,
    "shap": shap,
    "lime": lime,
    "occlusion": occlusion,
    "gradient": gradient,
    "grad-cam": grad_cam,
}
"""Method names -> functions. Each takes a `palate.explanation.players.Game`, `samples` and `seed`."""
