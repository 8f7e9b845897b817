"""A recommender on another device answers as on the CPU; `pretend_device` stands for a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from palate.cli import main
from palate.config import Training
from palate.device import module_device
from palate.errors import ConfigError
from palate.models import MODELS
from palate.recommender.export_onnx import export_onnx
from palate.recommender.recommender import Recommender
from palate.testing.case import planted
from pictures import pictured
from pretend_device import PRETEND, Pretending

Pair = tuple[Recommender, Recommender]


@pytest.fixture(params=list(MODELS), scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same recommender on the CPU and on the device."""
    data = (pictured() if request.param == "image-cnn" else planted()).train
    here = Recommender.train(data, request.param, training=Training(epochs=1))
    here.save(folder := tmp_path_factory.mktemp("run"))
    with Pretending():
        return here, Recommender.load(folder).to(str(PRETEND))


@pytest.fixture(autouse=True)
def pretending() -> Iterator[None]:
    with Pretending():
        yield


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    assert_frame_equal(found, wanted, check_exact=False, rel_tol=1e-4, abs_tol=1e-5)


def test_lists_ratings_and_reasons_are_the_same(pair: Pair) -> None:
    here, there = pair
    users, items = here.data.users.ids[:4].to_list(), here.data.items.ids[:4].to_list()
    same(there.recommend(users, k=5), wanted := here.recommend(users, k=5))
    if "history" in here.model.answers:
        same(there.recommend(history=[items[:2], items[1:]], k=5), here.recommend(history=[items[:2], items[1:]], k=5))
    same(there.similar(items[0], k=3), here.similar(items[0], k=3))
    if "rating" in here.model.answers:
        same(there.predict(users, items), here.predict(users, items))
    how = {"item": wanted["item_id"][0], "user": wanted["user_id"][0], "samples": 20}
    found, reasons = there.explain(**how), here.explain(**how)
    assert found.method == reasons.method
    values = [[one.value for one in each.contributions] for each in (found, reasons)]
    assert values[0] == pytest.approx(values[1], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["mf", "two-tower", "content-ials"])
def test_a_recommender_that_lives_there_is_saved_exported_and_updated(name: str, tmp_path: Path) -> None:
    data = planted().train
    rec = Recommender.train(data, name, training=Training(epochs=1)).to(str(PRETEND))
    rec.save(tmp_path / "run")
    users = data.users.ids[:3].to_list()
    same(Recommender.load(tmp_path / "run").recommend(users, k=5), rec.recommend(users, k=5))
    if name == "mf":
        assert export_onnx(rec, tmp_path / "onnx")["checked"]["largest_difference"] < 1e-3
    assert module_device(rec.model) == PRETEND  # it visited the CPU, and is back
    updated, _ = rec.update(data.frame().head(5).with_columns(pl.col("timestamp") + 10**6))
    assert len(updated.recommend(users, k=5)) == 15
    if name != "mf":
        new = data.item_table.head(2).with_columns(pl.col("item_id") + "-new")
        assert rec.add_items(new).data.n_items == data.n_items + 2


@pytest.mark.parametrize("name", ["mf", "multvae", "itemknn", "hybrid"])
def test_the_command_line_scores_there(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = planted()
    rec = Recommender.train(parts.train, name, training=Training(epochs=1))
    rec.save(tmp_path / "run", parts={"test": parts.test})

    def said(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main([words[0], str(tmp_path / "run"), *words[1:]])
        assert not end.value.code
        return capsys.readouterr().out

    for words in (["evaluate"], ["recommend", "--user", str(rec.data.users.ids[0])]):
        here, there = (said(*words, *more).splitlines() for more in ([], ["--device", str(PRETEND)]))
        assert [line for line in there if "to predict" not in line] == [
            line for line in here if "to predict" not in line
        ]
    boosted = ("recommend", "--user", str(rec.data.users.ids[0]), "--popularity", "-0.5", "--diversity", "0.5")
    assert said(*boosted, "--device", str(PRETEND)) == said(*boosted)
    files = [tmp_path / "here.parquet", tmp_path / "there.parquet"]
    for file, device in zip(files, ("cpu", str(PRETEND)), strict=True):
        said("recommend", "--all", "--out", str(file), "--device", device)
    same(pl.read_parquet(files[1]), pl.read_parquet(files[0]))


def test_a_device_that_is_not_there_is_refused() -> None:
    rec = Recommender.train(planted().train, "popularity")
    with pytest.raises(ConfigError, match=r"device = 'cuda:99' is no device of this machine"):
        rec.to("cuda:99")
