"""MODELS: name -> class. The list to look at first; each model is one file, which opens with its formula."""

from __future__ import annotations

from palate.models.base import GradientModel, Model
from palate.models.bias import Bias
from palate.models.mf import MF
from palate.models.ncf import GMF, MLP, NeuMF
from palate.models.popularity import Popularity

__all__ = ["MODELS", "GradientModel", "Model"]

MODELS: dict[str, type[Model]] = {
    "popularity": Popularity,
    "bias": Bias,
    "mf": MF,
    "gmf": GMF,
    "mlp": MLP,
    "neumf": NeuMF,
}
