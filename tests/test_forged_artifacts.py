"""Forged artifacts: whatever a folder holds, loading it gives a recommender or one clear error."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from forging import attempt, few, make_artifacts, reseal, trials
from palate.errors import ArtifactError
from palate.models import MODELS
from palate.recommender import artifact
from palate.recommender.recommender import Recommender
from palate.testing import planted

sys.path.append(str(Path(__file__).resolve().parent / "models"))

from test_contract import CASES

VARIANTS = ("svdpp-time", "content-knn-neighbours", "blend-ratings", "text-cnn-bag")
MUTATIONS = 2_000


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artifact of each model."""
    folder = tmp_path_factory.mktemp("artifacts")
    make_artifacts(folder, {name: CASES[name] for name in (*MODELS, *VARIANTS)})
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """An artifact of item-based nearest neighbours with a test part, to change."""
    data = few(planted().train)
    part = replace(data.take(np.arange(len(data)) % 5 == 0), history=data)
    Recommender.train(data, "itemknn").save(tmp_path / "run", parts={"test": part})
    return tmp_path / "run"


@pytest.mark.timeout(900)
def test_a_forged_artifact_of_any_model_is_refused_or_answers(artifacts: Path) -> None:
    """Bytes, tensors, tables, the card and the files change at random, mostly with hashes that fit."""
    assert {attempt(folder) for folder in artifacts.iterdir()} <= {"answered", "refused later"}
    found = list(trials(artifacts, seed=1, count=MUTATIONS))
    assert len(found) == MUTATIONS
    assert not [trial for trial in found if not trial.sound]
    assert max(trial.seconds for trial in found) < 5
    outcomes = Counter(trial.outcome for trial in found)
    assert min(outcomes["refused"], outcomes["answered"] + outcomes["refused later"]) > MUTATIONS / 20, outcomes


def refused(run: Path, says: str, **options: Any) -> None:
    with pytest.raises(ArtifactError, match=says) as found:
        Recommender.load(run, **options)
    assert len(str(found.value)) < 3_000


def change_card(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((run / "recommender.json").read_text())
    change(card)
    (run / "recommender.json").write_text(json.dumps(card))
    reseal(run)


def change_table(run: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(run / name)).write_parquet(run / name)
    reseal(run)


def change_tensor(run: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensors = load_file(run / "weights.safetensors")
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, run / "weights.safetensors")
    reseal(run)


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.concatenate([np.array([value], array.dtype), array.ravel()[1:]]).reshape(array.shape)


@pytest.mark.parametrize(
    ("tensor", "change", "says"),
    [
        ("item", with_first(2**30), "column of a sparse matrix holds numbers that are not whole numbers from 0 to 76"),
        ("item", with_first(-1), "column of a sparse matrix"),
        ("item", lambda a: a[:-1], r"has 78 offsets, \d+ indices and \d+ values"),
        ("item", lambda a: a.astype(np.int64), "item is of dtype I64, not torch.int32"),
        ("item", lambda a: a[None], r"item has shape \(1, \d+\), not \(0,\)"),
        ("offsets", with_first(5), "offsets of a sparse matrix do not run from 0"),
        ("offsets", lambda a: a[::-1], "offsets of a sparse matrix is not in ascending order"),
        ("offsets", lambda a: a * 2, "offsets of a sparse matrix holds numbers"),
        ("offsets", lambda a: a[:-1], r"has 77 offsets"),
        ("weight", with_first(np.nan), "weight holds NaN or infinite numbers"),
        ("weight", lambda a: a.astype(np.int32), "weight is of dtype I32, not torch.float32"),
        ("weight", lambda a: a > 0, "weight is of dtype BOOL"),
        ("weight", lambda a: a.astype(np.complex64), "weight is of dtype C64"),
        ("fallback.popularity", with_first(np.inf), "fallback.popularity holds NaN or infinite"),
        ("fallback.popularity", lambda a: a[:30], r"fallback.popularity has shape \(30,\), not \(77,\)"),
        ("fallback.by_attribute.item", with_first(10_000), "fallback.by_attribute: item holds numbers"),
        ("fallback.by_attribute.item", lambda a: a[::-1], "fallback.by_attribute: item is not in ascending order"),
    ],
)
def test_tensors_are_checked(run: Path, tensor: str, change: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    change_tensor(run, tensor, change)
    refused(run, says)


@pytest.mark.parametrize("name", ["hybrid", "blend", "dropoutnet"])
def test_tensors_of_models_inside_are_checked(artifacts: Path, tmp_path: Path, name: str) -> None:
    tensors = [n for n, a in load_file(artifacts / name / "weights.safetensors").items() if n.count(".") and a.size]
    assert tensors
    for tensor in tensors[:: max(1, len(tensors) // 6)]:
        shutil.copytree(artifacts / name, tmp_path / tensor)
        change_tensor(tmp_path / tensor, tensor, lambda a: with_first(np.nan if a.dtype.kind == "f" else -(2**31))(a))
        refused(tmp_path / tensor, "does not fit this palate")


def set_value(column: str, value: object, row: int = 3) -> Callable[[pl.DataFrame], pl.DataFrame]:
    place = pl.int_range(pl.len()) == row
    return lambda t: t.with_columns(
        pl.when(place).then(pl.lit(value)).otherwise(column).cast(t.schema[column]).alias(column)
    )


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("interactions.parquet", set_value("user", 2**30), "indices of users outside 0 to 29"),
        ("interactions.parquet", set_value("user", -1), "indices of users outside 0 to 29"),
        ("interactions.parquet", set_value("item", 77), "indices of items outside 0 to 76"),
        ("interactions.parquet", set_value("item", -3), "indices of items outside"),
        ("interactions.parquet", set_value("rating", float("nan")), "a rating that is not finite"),
        ("interactions.parquet", set_value("rating", None), "null values"),
        (
            "interactions.parquet",
            lambda t: t.sample(fraction=1.0, shuffle=True, seed=1),
            "not ordered by user, then time",
        ),
        ("interactions.parquet", lambda t: t.with_columns(timestamp=-pl.col("timestamp")), "not ordered"),
        ("interactions.parquet", lambda t: t.head(10), r"has 10 rows, and \d+ were saved"),
        ("interactions.parquet", lambda t: t.drop("user"), "has the columns"),
        ("interactions.parquet", lambda t: t.cast({"item": pl.Int64}), "has the columns"),
        ("interactions.parquet", lambda t: t.cast({"rating": pl.Int32}), "has the columns"),
        ("interactions.parquet", lambda t: t.with_columns(weight=True), "has the columns"),
        ("interactions.parquet", lambda t: t.with_columns(weight=pl.lit(-1.0, pl.Float32)), "negative weight"),
        ("interactions.parquet", lambda t: t.with_columns(extra=1), "has the columns"),
        ("items.parquet", lambda t: t.head(30), "items.parquet has 30 rows, and the model was built for 77"),
        ("items.parquet", lambda t: t.head(0), "items.parquet has 0 rows"),
        ("items.parquet", set_value("item_id", None), "null or repeated ids"),
        ("items.parquet", set_value("item_id", "i00"), "null or repeated ids"),
        (
            "items.parquet",
            lambda t: t.with_columns(item_id=pl.int_range(77).cast(pl.Float64)),
            "whole numbers of 64 bits",
        ),
        ("items.parquet", lambda t: t.select("title", "item_id"), "the first column of items.parquet must be item_id"),
        ("users.parquet", lambda t: t.head(20), "users.parquet has 20 rows, and the model was built for 30"),
        ("users.parquet", lambda t: pl.concat([t, t]), "users.parquet has 60 rows"),
        ("test/interactions.parquet", set_value("user", 500), "indices of users outside 0 to 29"),
        ("test/history.parquet", set_value("item", 500), "indices of items outside 0 to 76"),
    ],
)
def test_tables_are_checked(run: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame], says: str) -> None:
    change_table(run, name, change)
    refused(run, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.update(format=-5), "format is -5, not a number from 1"),
        (lambda c: c.update(format=True), "format is True"),
        (lambda c: c.update(format=1.0), "format is 1.0"),
        (lambda c: c.pop("format"), "format is None"),
        (lambda c: c.pop("model"), "model is missing"),
        (lambda c: c.pop("files"), "files is missing"),
        (lambda c: c.update(model=["itemknn"]), r"model is \['itemknn'\], not of type str"),
        (lambda c: c.update(parts=["test"]), "parts is .* not of type dict"),
        (
            lambda c: c.update(parts={"/somewhere": c["data"]}),
            "a part is called '/somewhere'; parts are valid and test",
        ),
        (lambda c: c.update(parts={"test": 3}), "parts.'test' is 3, not an object"),
        (
            lambda c: c["files"].update({"../../etc/passwd": c["files"]["users.parquet"]}),
            "'../../etc/passwd', which no",
        ),
        (lambda c: c["files"].pop("interactions.parquet"), "interactions.parquet is not listed"),
        (lambda c: c["files"].update({"users.parquet": "x"}), "files.'users.parquet' is 'x', not an object"),
        (lambda c: c["spec"].update(new_items=50), "fallback.by_attribute"),
        (lambda c: c["spec"].update(new_items=80), "80 of them new"),
        (lambda c: c["spec"].update(n_users=10**12), "30 rows, and the model was built for 1000000000000"),
        (lambda c: c["spec"].update(rating_scale=[5, 1]), "the rating scale is 5.0 to 1.0"),
        (lambda c: c["data"].update(rating_scale=[1, float("nan")]), "the rating scale is 1.0 to nan"),
        (lambda c: c["data"].update(kinds={"items": 3}), "kinds of columns"),
        (lambda c: c.update(records=[{"epoch": "1", "loss": 1.0}]), "record of an epoch|Epoch"),
        (lambda c: c.update(records=[3]), "TypeError"),
        (lambda c: c.update(training={"lr": "fast"}), "lr = 'fast' is not a number"),
        (lambda c: c["config"].update(k=10**30), "is damaged .* has more than 64 bits"),
        (lambda c: c.update(model="ease"), "unknown setting|does not fit"),
    ],
)
def test_the_card_is_checked(run: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    change_card(run, change)
    refused(run, says)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "1", '"x"', "{", "[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "\ud800", '{"format": 2}'],
)
def test_a_card_that_is_no_card(run: Path, text: str) -> None:
    (run / "recommender.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(run, "is damaged|was edited")


def test_a_setting_cannot_ask_for_more_memory_than_the_file_holds(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "mf", tmp_path / "mf")
    change_card(tmp_path / "mf", lambda card: card["config"].update(dim=10**9))
    refused(tmp_path / "mf", r"has shape \(30, 16\), not \(30, 1000000000\)|has shape")


def test_files_lie_in_the_folder(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "users.parquet", tmp_path / "outside.parquet")
    (run / "users.parquet").unlink()
    (run / "users.parquet").symlink_to(tmp_path / "outside.parquet")
    refused(run, "users.parquet is a link out of the folder")
    (run / "users.parquet").unlink()
    os.mkfifo(run / "users.parquet")
    refused(run, "users.parquet is missing")
    (run / "users.parquet").unlink()
    shutil.copy(tmp_path / "outside.parquet", run / "mine.parquet")
    (run / "users.parquet").symlink_to("mine.parquet")
    assert Recommender.load(run).data.n_users == 30
    shutil.move(run / "recommender.json", tmp_path / "card.json")
    (run / "recommender.json").symlink_to(tmp_path / "card.json")
    refused(run, "is a link out of the folder")


def test_a_trusted_folder_loads_without_hashing(run: Path) -> None:
    tensors = load_file(run / "weights.safetensors")
    save_file(tensors | {"weight": tensors["weight"] * 2}, run / "weights.safetensors")
    refused(run, "weights.safetensors was edited after it was saved: its sha256 differs")
    assert Recommender.load(run, verify=False).data.n_items == 77
    change_tensor(run, "item", with_first(-1))
    refused(run, "column of a sparse matrix", verify=False)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    trained = Recommender.train(few(planted().train), "ease")
    trained.model.weight[0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="weight holds NaN"):
        trained.save(tmp_path / "run")
    trained.model.weight[0, 0] = 0.0
    unsorted = replace(trained.data, user=trained.data.user[::-1].copy())
    with pytest.raises(ArtifactError, match="not ordered by user"):
        replace(trained, data=unsorted).save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_loads_that_meet_saves_get_one_of_the_two(run: Path) -> None:
    """A process saves two models over each other all the time; each load gets one of them whole."""
    one, other = Recommender.load(run), Recommender.train(few(planted().train), "popularity")
    stop = threading.Event()

    def save() -> None:
        for saved in itertools.cycle((other, one)):
            if stop.wait(0.02):  # long enough for a load to fall between two saves, short enough for many to meet one
                return
            saved.save(run)

    saver = threading.Thread(target=save)
    saver.start()
    try:
        names, until = [Recommender.load(run).name for _ in range(60)], time.monotonic() + 120
        while len(set(names)) < 2 and time.monotonic() < until:  # loads and saves may fall into step
            names.append(Recommender.load(run).name)
    finally:
        stop.set()
        saver.join()
    assert set(names) == {"itemknn", "popularity"}


def test_two_processes_may_save_at_once(run: Path) -> None:
    code = "import sys, palate; r = palate.Recommender.load(sys.argv[1]); [r.save(sys.argv[1]) for _ in range(8)]"
    savers = [subprocess.Popen([sys.executable, "-c", code, str(run)]) for _ in range(3)]
    assert [saver.wait() for saver in savers] == [0, 0, 0]
    assert Recommender.load(run).name == "itemknn"
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_a_save_removes_what_killed_saves_left(run: Path) -> None:
    recommender = Recommender.load(run)
    code = f"""
import sys, time
from palate import Recommender
from palate.recommender import artifact
recommender = Recommender.load({str(run)!r})
artifact._swap = lambda new, path: (print("written", flush=True), time.sleep(60))
recommender.save({str(run)!r})
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as saver:
        assert saver.stdout is not None
        assert saver.stdout.readline() == b"written\n"
        left = [path for path in run.parent.iterdir() if path.name.endswith(".new")]
        assert len(left) == 1
        recommender.save(run)  # The other save is still at work: its folder stays.
        assert left[0].exists()
        saver.send_signal(signal.SIGKILL)
    (run.parent / ".run2.7.new").mkdir()
    recommender.save(run)
    assert sorted(path.name for path in run.parent.iterdir()) == [".run2.7.new", "run"]


def test_a_save_ends_what_a_kill_between_the_renames_left(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    recommender = Recommender.load(run)
    run.rename(run.parent / ".run.old")
    start = time.monotonic()
    refused(run, r"a save was interrupted; rename .*\.run\.old to .*run")
    assert time.monotonic() - start < artifact.SWAP_SECONDS + 5
    recommender.save(run)
    assert (run / "notes.txt").read_text() == "mine"
    assert [path.name for path in run.parent.iterdir()] == ["run"]


def test_messages_name_the_folder_and_what_to_do(run: Path) -> None:
    change_tensor(run, "item", with_first(-1))
    refused(run, re.escape(str(run)) + " does not fit this palate")
