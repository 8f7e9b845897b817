"""Exports: the ONNX scorer answers as the model does, without PyTorch; vectors go with the lists."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import palate
from palate.errors import ArtifactError, CannotAnswer
from palate.recommender import export_onnx as module
from palate.recommender.export_onnx import export_onnx
from palate.recommender.vectors import export_vectors
from test_cli import palate as command

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, dict[str, Any] | None] = {
    "gmf": None, "mlp": None, "neumf": None, "neumf-mse": {"loss": "mse"}, "mf": None, "mf-mse": {"loss": "mse"},
    "multdae": None, "multvae": None, "two-tower": None, "ials": None, "ease": None, "edlae": None,
    "sasrec": {"dim": 16, "length": 20}, "sasrec-ligr": {"dim": 16, "length": 20, "layer": "ligr"},
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> palate.Dataset:
    """1,000 users with attributes, text ids, items with features."""
    raw = palate.Dataset.load("synthetic-25000")
    return palate.Dataset.from_frame(
        raw.frame().with_columns(pl.col("user_id", "item_id").cast(pl.String)),
        items=raw.item_table.with_columns(pl.col("item_id").cast(pl.String)) if raw.item_table is not None else None,
        users=raw.user_table.with_columns(pl.col("user_id").cast(pl.String)) if raw.user_table is not None else None,
    )


@pytest.fixture(scope="module")
def trained(data: palate.Dataset) -> Callable[[str], palate.Recommender]:
    done: dict[str, palate.Recommender] = {}

    def get(name: str) -> palate.Recommender:
        if name not in done:
            model = name.removesuffix("-mse").removesuffix("-ligr")
            steps = None if model in ("ials", "ease", "edlae") else {"epochs": 1}
            done[name] = palate.Recommender.train(data, model, SETTINGS[name], steps, seed=1)
        return done[name]

    return get


def client(folder: Path) -> Any:
    sys.path.append(str(ROOT / "examples"))
    from onnx_client import Client

    return Client(str(folder))


def same_but_for_ties(ours: list[tuple[Any, float]], theirs: list[tuple[Any, float]]) -> bool:
    """Whether scores agree in each place to 1e-4, so that other items can only be ties."""
    return len(ours) == len(theirs) and all(abs(a[1] - b[1]) <= 1e-4 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_client_without_torch_lists_what_the_model_lists(
    name: str, trained: Callable[[str], palate.Recommender], tmp_path: Path
) -> None:
    rec = trained(name)
    about = export_onnx(rec, tmp_path / "out")
    assert about["checked"]["users"] == min(1000, rec.data.n_users)
    assert about["checked"]["largest_difference"] <= 1e-4
    found, users = client(tmp_path / "out"), rec.data.users.ids.to_list()
    lists = rec.recommend(users, k=10).group_by("user_id", maintain_order=True).agg("item_id", "score")
    expected = {user: list(zip(items, scores, strict=True)) for user, items, scores in lists.iter_rows()}
    different = 0
    for user in users:
        ours = found.recommend(user)
        assert same_but_for_ties(ours, expected[user]), user
        different += [item for item, _ in ours] != [item for item, _ in expected[user]]
    assert different <= 0.02 * len(users)


@pytest.mark.parametrize("name", ["multvae", "ease", "two-tower", "sasrec"])
def test_a_history_is_answered_too(name: str, trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    rec = trained(name)
    about = export_onnx(rec, tmp_path / "out")
    assert "history" in about["answers"]
    found, history = client(tmp_path / "out"), tuple(rec.data.items.ids[[3, 5, 3, 11]])
    expected = rec.recommend(history=[history], k=7)
    ours = found.recommend("nobody", history, 7)
    assert same_but_for_ties(ours, expected.select("item_id", "score").rows())
    assert not {item for item, _ in ours} & set(history)
    [popular] = rec.recommend(history=[[]], k=1)["item_id"]
    assert found.recommend("nobody", k=1)[0][0] == popular


def test_a_user_whom_neumf_does_not_know_gets_popularity(
    trained: Callable[[str], palate.Recommender], tmp_path: Path
) -> None:
    rec = trained("neumf")
    assert export_onnx(rec, tmp_path / "out")["answers"] == ["known_user"]
    listed = client(tmp_path / "out").recommend("nobody", k=5)
    counts = np.sort(rec.data.item_counts)[::-1]
    assert [score for _, score in listed] == counts[:5].tolist()


def test_the_client_is_short_and_needs_no_torch(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    rec = trained("ials")
    export_onnx(rec, tmp_path / "out")
    file = ROOT / "examples/onnx_client.py"
    body = file.read_text(encoding="utf-8").split('"""', 2)[2].split("if __name__")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 30
    user = rec.data.users.ids[17]
    code = f"import runpy, sys; sys.argv = ['c', {str(tmp_path / 'out')!r}, {user!r}, '3']; "
    code += f"runpy.run_path({str(file)!r}, run_name='__main__'); assert not {{'torch', 'palate'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [item for item, _ in rows] == rec.recommend(user, k=3)["item_id"].to_list()


def test_other_models_are_refused(data: palate.Dataset, tmp_path: Path) -> None:
    rec = palate.Recommender.train(data, "popularity")
    with pytest.raises(CannotAnswer, match="Popularity cannot be exported to ONNX; palate exports mf, ials"):
        export_onnx(rec, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_else_lies_there_is_kept(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is not an ONNX export; nothing was written"):
        export_onnx(trained("ials"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    for _ in range(2):  # a second export replaces the first
        export_onnx(trained("ials"), tmp_path / "out")
    assert json.loads((tmp_path / "out/about.json").read_text())["model"] == "ials"


def test_an_export_that_disagrees_with_the_model_is_not_kept(
    trained: Callable[[str], palate.Recommender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = module.scorer_of

    def wrong(model: Any, data: palate.Dataset) -> Any:
        scorer = build(model, data)
        scorer.item_EN[:, 4] += 0.01
        return scorer

    monkeypatch.setattr(module, "scorer_of", wrong)
    with pytest.raises(ArtifactError, match="ONNX scorer"):
        export_onnx(trained("ials"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


FACTORS = ["mf", "ials", "two-tower", "mf-mse"]


@pytest.mark.parametrize("name", FACTORS)
def test_dot_products_of_vectors_order_the_items(name: str, trained: Callable[[str], palate.Recommender]) -> None:
    rec = trained(name)
    users, items = rec.user_vectors(), rec.item_vectors()
    assert users.columns == ["user_id", "vector"]
    assert items["item_id"].equals(rec.data.items.ids.rename("item_id"))
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    shown = rec.recommend(users["user_id"][:50], k=20, exclude_seen=False)
    for row, (_, listed) in enumerate(shown.group_by("user_id", maintain_order=True)):
        place = rec.data.items.index(listed["item_id"])
        ordered = scores[row, place]
        # In the order of the list, but for rounding; and nothing outside of the list is better than its last.
        assert (np.diff(ordered) <= 1e-4).all()
        assert (np.delete(scores[row], place) <= ordered[-1] + 1e-4).all()


def test_models_without_user_vectors_say_so(trained: Callable[[str], palate.Recommender], data: palate.Dataset) -> None:
    assert trained("neumf").item_vectors()["vector"].to_numpy().shape == (data.n_items, 64)
    with pytest.raises(CannotAnswer, match="neumf does not rank by dot products"):
        trained("neumf").user_vectors()
    popularity = palate.Recommender.train(data, "popularity")
    with pytest.raises(CannotAnswer, match="popularity has no item vectors"):
        popularity.item_vectors()
    with pytest.raises(CannotAnswer, match="popularity does not rank by dot products"):
        popularity.user_vectors()


def test_vectors_as_parquet(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    rec = trained("ials")
    about = export_vectors(rec, tmp_path / "v")
    assert about["metric"] == "dot"
    items, users = (pl.read_parquet(tmp_path / f"v/{name}.parquet") for name in ("items", "users"))
    assert items.select("item_id", "vector").equals(rec.item_vectors())
    assert users.equals(rec.user_vectors())
    assert rec.data.item_table is not None
    assert items.drop("vector").equals(rec.data.item_table)
    about = export_vectors(trained("neumf"), tmp_path / "v")  # no users: the file of before would not go with these
    assert about["metric"] == "cosine"
    assert sorted(file.name for file in (tmp_path / "v").iterdir()) == ["items.parquet", "vectors.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write vectors"):
        export_vectors(rec, tmp_path / "file")


def test_export_from_the_command_line(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    trained("ials").save(tmp_path / "run")
    done = command("export", tmp_path / "run", "--onnx", tmp_path / "onnx")
    assert done.code == 0, done.err
    assert "saved ials as ONNX" in done.out
    assert "compared with PyTorch on" in done.out
    done = command("export", "vectors", tmp_path / "run", "--out", tmp_path / "v")
    assert "the dot product of a user and an item orders the items as palate recommend does" in done.out
    done = command("export", tmp_path / "run")
    assert done.code == 2
    assert f"say what to export: palate export {tmp_path / 'run'} --onnx OUT" in done.err


def test_new_items_are_exported(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    rec = trained("two-tower")
    assert rec.data.item_table is not None
    more = rec.add_items(rec.data.item_table.head(5).with_columns(pl.format("new {}", "item_id").alias("item_id")))
    export_onnx(more, tmp_path / "out")
    listed = client(tmp_path / "out").recommend(more.data.users.ids[0], k=more.data.n_items)
    assert {item for item, _ in listed} >= set(more.data.items.ids[-5:])


def test_scorers_leave_the_model_as_it_is(trained: Callable[[str], palate.Recommender], tmp_path: Path) -> None:
    rec = trained("two-tower")
    before = {name: value.clone() for name, value in rec.model.state_dict().items()}
    export_onnx(rec, tmp_path / "out")
    assert all(torch.equal(value, before[name]) for name, value in rec.model.state_dict().items())
