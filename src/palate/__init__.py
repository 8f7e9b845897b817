"""palate: train, evaluate, explain and serve recommendations from raw tables.

The public names load when they are first used, so that `import palate` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.automl import auto as auto
    from palate.config import Training as Training
    from palate.data.dataset import Dataset as Dataset
    from palate.data.reading.read_dataset import read_dataset as read_dataset
    from palate.data.sources.load_dataset import load_dataset as load_dataset
    from palate.data.splits import read_split as read_split
    from palate.data.splits import split_dataset as split_dataset
    from palate.data.store import open_dataset as open_dataset
    from palate.errors import PalateError as PalateError
    from palate.evaluation.protocol import Protocol as Protocol
    from palate.models import MODELS as MODELS
    from palate.ranking.rules import Rules as Rules
    from palate.recommender import Recommender as Recommender
    from palate.recommender.export_onnx import export_onnx as export_onnx
    from palate.recommender.onboarding import onboard as onboard
    from palate.recommender.vectors import export_vectors as export_vectors

__version__ = "0.1.0"

_HOME = {
    "Dataset": "palate.data.dataset",
    "MODELS": "palate.models",
    "PalateError": "palate.errors",
    "Protocol": "palate.evaluation.protocol",
    "Recommender": "palate.recommender",
    "Rules": "palate.ranking.rules",
    "Training": "palate.config",
    "auto": "palate.automl",
    "export_onnx": "palate.recommender.export_onnx",
    "export_vectors": "palate.recommender.vectors",
    "load_dataset": "palate.data.sources.load_dataset",
    "onboard": "palate.recommender.onboarding",
    "open_dataset": "palate.data.store",
    "read_dataset": "palate.data.reading.read_dataset",
    "read_split": "palate.data.splits",
    "split_dataset": "palate.data.splits",
}

__all__ = [
    "MODELS",
    "Dataset",
    "PalateError",
    "Protocol",
    "Recommender",
    "Rules",
    "Training",
    "__version__",
    "auto",
    "export_onnx",
    "export_vectors",
    "load_dataset",
    "onboard",
    "open_dataset",
    "read_dataset",
    "read_split",
    "split_dataset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'palate' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
