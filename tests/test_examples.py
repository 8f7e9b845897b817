"""The files of `examples/` run, and each step of "add your own model" is better than the one before."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import palate
from palate.models.base import Model
from palate.testing import CHECKS, Case

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "examples"))

from model_1_constant import Constant  # noqa: E402
from model_2_mean import ItemMean  # noqa: E402
from model_3_user_and_item import UserAndItem  # noqa: E402
from model_4_any_module import OfModule  # noqa: E402

STEPS: dict[str, type[Model]] = {"Constant": Constant, "ItemMean": ItemMean, "UserAndItem": UserAndItem}
MODELS: dict[str, type[Model]] = {**STEPS, "OfModule": OfModule}
TRAINING = palate.Training(epochs=30, batch_size=64, lr=0.03)


@pytest.fixture(scope="module")
def parts() -> palate.data.splits.Split:
    """Ratings of 60 users on 40 items: 3 + a taste of the user + a quality of the item + noise."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(60 * 40, 1200, replace=False), 40)
    rating = 3 + rng.normal(size=60)[user] + rng.normal(size=40)[item] + 0.3 * rng.normal(size=1200)
    frame = pl.DataFrame({"user_id": [f"u{u}" for u in user], "item_id": item, "rating": rating.clip(1, 5)})
    return palate.Dataset.from_frame(frame).split("random", valid=0.1, test=0.2)


@pytest.fixture(scope="module")
def trained(parts: palate.data.splits.Split) -> dict[str, palate.Recommender]:
    return {
        name: palate.Recommender.train(parts.train, step(step.Config(), parts.train.spec), training=TRAINING)
        for name, step in MODELS.items()
    }


def rmse(rec: palate.Recommender, test: palate.Dataset) -> float:
    known = test.frame()
    predicted = rec.predict(known["user_id"], known["item_id"])
    return float(np.sqrt(np.mean((predicted["prediction"].to_numpy() - known["rating"].to_numpy()) ** 2)))


def test_each_step_is_better(trained: dict[str, palate.Recommender], parts: palate.data.splits.Split) -> None:
    constant, mean, both = (rmse(trained[name], parts.test) for name in STEPS)
    assert mean < 0.95 * constant
    assert both < 0.6 * mean


@pytest.mark.parametrize("name", MODELS)
def test_each_step_recommends(name: str, trained: dict[str, palate.Recommender]) -> None:
    lists = trained[name].recommend(users=["u0", "u1"], k=5)
    assert lists.select("user_id", "rank").rows() == [(u, rank) for u in ("u0", "u1") for rank in range(1, 6)]


@pytest.mark.parametrize("name", MODELS)
def test_each_step_is_saved_and_loaded(name: str, trained: dict[str, palate.Recommender], tmp_path: Path) -> None:
    rec = trained[name]
    rec.save(tmp_path / name)
    again = palate.Recommender.load(tmp_path / name, models={**palate.MODELS, **MODELS})
    assert again.recommend(users=["u3"], k=7).equals(rec.recommend(users=["u3"], k=7))
    with pytest.raises(palate.PalateError, match=name):
        palate.Recommender.load(tmp_path / name)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", MODELS)
def test_each_step_keeps_the_contract(name: str, check: str) -> None:
    if (name, check) == ("Constant", "beats_popularity"):
        pytest.skip("a constant predicts worse than the mean")
    # Embeddings that begin as PyTorch draws them need more than the ten epochs of `Case`.
    training = palate.Training(epochs=20, batch_size=256, lr=0.02)
    CHECKS[check](Case(MODELS[name], training=training, popular=name in STEPS))


def test_the_loop_trains_the_third_step(trained: dict[str, palate.Recommender]) -> None:
    losses = [record.loss for record in trained["UserAndItem"].records]
    assert len(losses) == TRAINING.epochs
    assert losses[-1] < 0.3 * losses[0]


def quickstart(data: palate.Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> palate.Recommender:
    """Runs the file in a folder of its own, with this data in place of a download."""
    asked: list[str] = []
    monkeypatch.setattr(palate.Dataset, "load", lambda name: asked.append(name) or data)
    monkeypatch.chdir(folder)
    runpy.run_path(str(ROOT / "examples/quickstart.py"))
    assert asked == ["movielens-100k"]
    return palate.Recommender.load(folder / "runs/neumf")


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    user, item = np.divmod(rng.choice(200 * 200, 6000, replace=False), 200)
    columns = {"user_id": (user + 1).astype(str), "item_id": (item + 1).astype(str)}
    times = pl.Series("timestamp", 880_000_000 + rng.integers(0, 10**7, 6000))
    frame = pl.DataFrame({**columns, "rating": rng.integers(1, 6, 6000).astype(float), "timestamp": times})
    rec = quickstart(palate.Dataset.from_frame(frame), tmp_path, monkeypatch)
    assert rec.name == "neumf"
    assert rec.training.seed == 7


@pytest.mark.slow
def test_the_quickstart_runs_on_movielens(
    real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = palate.Dataset.load("movielens-100k", real_data("ml-100k") / "ml-100k-original.zip")
    rec = quickstart(data, tmp_path, monkeypatch)
    assert rec.recommend(users=["196"], k=10).height == 10
