"""The artifact: what goes in comes out, a failed save leaves the old one, every fault of it is one clear error."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import palate
from palate.config import Training, check
from palate.data.dataset import Dataset, Queries, Spec
from palate.errors import ArtifactError
from palate.models.base import Model
from palate.recommender import artifact
from palate.recommender.artifact import Artifact
from palate.recommender.artifact_files import hash_of_card
from palate.training.train_run import Epoch, TrainRun


@dataclass(frozen=True, kw_only=True)
class TiedConfig:
    """Settings of `Tied`."""

    dim: int = 4
    """Width."""
    shift: tuple[float, ...] = (0.5, 1.0)
    """Anything."""

    def __post_init__(self) -> None:
        check(self, dim=self.dim >= 1)


class Tied(Model):
    """Two names for one weight, and a buffer."""

    Config = TiedConfig

    def __init__(self, config: TiedConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.item = nn.Embedding(spec.n_items, config.dim)
        self.output = nn.Linear(config.dim, spec.n_items, bias=False)
        self.output.weight = self.item.weight
        self.register_buffer("seen", torch.zeros(spec.n_users))

    def _fit(self, data: Dataset, job: TrainRun) -> list[Epoch]:
        self.seen.copy_(torch.from_numpy(np.bincount(data.user, minlength=data.n_users)))
        return [Epoch(1, 0.5, {"rmse": 1.0}), Epoch(2, 0.25, {"rmse": 0.9}, 1.5, 20, best=True)]

    def _score(self, queries: Queries) -> Tensor:
        return self.seen[queries.user].unsqueeze(1) * self.output(self.item.weight).sum(1)


MODELS = {"tied": Tied}


def table(text_ids: bool = True) -> pl.DataFrame:
    users, items = [0, 0, 1, 1, 2, 2, 3], [10, 11, 11, 12, 10, 12, 13]
    ids = {"user_id": pl.Series(users), "item_id": pl.Series(items)}
    if text_ids:
        ids = {name: column.cast(pl.String).str.zfill(3) for name, column in ids.items()}
    return pl.DataFrame({**ids, "rating": [1.0, 2, 3, 4, 5, 4, 3], "timestamp": range(7)})


def made(text_ids: bool = True, **options: Any) -> Artifact:
    frame = table(text_ids)
    films = frame.select("item_id").unique().with_columns(title=pl.lit("Ärger “im” Paradies"), tags=pl.lit(["a", "b"]))
    data = Dataset.from_frame(frame, items=films, notes=("one note",))
    model = Tied(TiedConfig(dim=3, shift=(2.0,)), data.spec)
    records = model.fit(data, Training(seed=3))
    return Artifact(
        name="tied", model=model, data=data, training=Training(seed=3, lr=0.1), records=records, parts={}, **options
    )


def same(a: Dataset, b: Dataset) -> None:
    assert a.fingerprint == b.fingerprint
    assert a.users.ids.dtype == b.users.ids.dtype
    assert (a.rating_scale, a.notes, a.history is None) == (b.rating_scale, b.notes, b.history is None)
    for name in ("item_table", "user_table"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert (mine is None) == (theirs is None)
        assert mine is None or mine.equals(theirs)


@pytest.mark.parametrize("text_ids", [True, False])
def test_what_goes_in_comes_out(tmp_path: Path, text_ids: bool) -> None:
    before = made(text_ids)
    artifact.write(tmp_path / "run", before)
    after = artifact.read(tmp_path / "run", MODELS)
    same(before.data, after.data)
    assert after.data.rating is not None
    assert after.data.rating.dtype == np.float32
    assert (after.name, after.training, after.records) == (before.name, before.training, before.records)
    assert after.model.config == before.model.config
    assert not after.model.training
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(tensor, after.model.state_dict()[name])
    assert after.model.output.weight is after.model.item.weight
    query = before.data.queries(np.array([0, 3]), before.model.spec)
    assert torch.equal(before.model.score(query), after.model.score(query))


class Doubling(Tied):
    """Holds a table that `refresh` makes from its weights."""

    def _refresh(self, context: Any) -> None:
        self.double = 2 * self.item.weight.detach()


def test_loading_rebuilds_what_is_computed_from_the_weights(tmp_path: Path) -> None:
    before = made()
    model = Doubling(before.model.config, before.data.spec)
    model.fit(before.data)
    artifact.write(tmp_path / "run", replace(before, name="Doubling", model=model))
    after = artifact.read(tmp_path / "run", {"mine": Doubling}).model
    assert isinstance(after, Doubling)
    assert torch.equal(after.double, 2 * model.item.weight)


def test_parts_are_kept_with_their_histories(tmp_path: Path) -> None:
    before = made()
    users, items = before.data.users.extend(pl.Series(["900"])), before.data.items.extend(pl.Series(["901"]))
    past = replace(before.data, users=users, items=items, item_table=None)
    test = replace(
        past, user=np.array([4], np.int32), item=np.array([4], np.int32), rating=None, timestamp=None, history=past
    )
    artifact.write(tmp_path / "run", replace(before, parts={"test": test}))
    after = artifact.read(tmp_path / "run", MODELS).parts["test"]
    same(test, after)
    assert after.history is not None
    same(past, after.history)


def test_the_folder_holds_data_only(tmp_path: Path) -> None:
    artifact.write(tmp_path / "run", made())
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {
        "recommender.json",
        "weights.safetensors",
        "users.parquet",
        "items.parquet",
        "interactions.parquet",
    }
    card = json.loads((tmp_path / "run" / "recommender.json").read_text())
    assert card["format"] == 2
    assert card["versions"] == {"palate": palate.__version__, "torch": torch.__version__}
    assert card["metrics"] == {"valid rmse": 0.9}
    assert set(card["files"]) == names - {"recommender.json"}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_saving_again_replaces_and_keeps_what_is_not_the_artifacts(tmp_path: Path) -> None:
    run, first = tmp_path / "run", made()
    artifact.write(run, replace(first, parts={"test": first.data}))
    (run / "notes.txt").write_text("mine")
    artifact.write(run, replace(first, training=Training(lr=0.5)))
    assert artifact.read(run, MODELS).training == Training(lr=0.5)
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "test").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_not_an_artifact_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    for path in (tmp_path / "letters", tmp_path / "letters" / "love.txt"):
        with pytest.raises(ArtifactError, match="exists and is not an artifact; nothing was written"):
            artifact.write(path, made())
    assert (tmp_path / "letters" / "love.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    artifact.write(tmp_path / "empty", made())
    assert artifact.read(tmp_path / "empty", MODELS).name == "tied"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as on a full disk."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 300, 700, 1500])
def test_a_full_disk_leaves_the_old_artifact(tmp_path: Path, size: int) -> None:
    run = tmp_path / "run"
    artifact.write(run, made())
    before = {file: file.read_bytes() for file in run.iterdir()}
    with (
        files_no_larger_than(size),
        pytest.raises(ArtifactError, match=r"cannot save .*run.*is unchanged\. Free space"),
    ):
        artifact.write(run, replace(made(), training=Training(lr=0.5)))
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    artifact.write(run, replace(made(), training=Training(lr=0.5)))
    assert artifact.read(run, MODELS).training.lr == 0.5


def test_a_rename_that_fails_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    artifact.write(run, made())
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target == run and not self.name.endswith(".old"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ArtifactError, match="Permission denied"):
        artifact.write(run, replace(made(), training=Training(lr=0.5)))
    monkeypatch.undo()
    assert artifact.read(run, MODELS).training.lr == 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_a_kill_between_the_renames_is_explained(tmp_path: Path) -> None:
    artifact.write(tmp_path / "run", made())
    (tmp_path / "run").rename(tmp_path / ".run.old")
    with pytest.raises(ArtifactError, match=r"a save was interrupted; rename .*\.run\.old to .*run"):
        artifact.read(tmp_path / "run", MODELS)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


FILES = ["weights.safetensors", "users.parquet", "items.parquet", "interactions.parquet", "test/interactions.parquet"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "says"), [(Path.unlink, "is missing"), (cut, "is truncated"), (flip, "was edited after it was saved")]
)
def test_damaged_files(tmp_path: Path, name: str, damage: Callable[[Path], None], says: str) -> None:
    whole = made()
    artifact.write(tmp_path / "run", replace(whole, parts={"test": whole.data}))
    damage(tmp_path / "run" / name)
    with pytest.raises(ArtifactError, match=rf"cannot load .*run \(restore the folder or train again\): {name} {says}"):
        artifact.read(tmp_path / "run", MODELS)


def test_all_damage_is_told_at_once(tmp_path: Path) -> None:
    artifact.write(tmp_path / "run", made())
    (tmp_path / "run" / "users.parquet").unlink()
    cut(tmp_path / "run" / "weights.safetensors")
    with pytest.raises(
        ArtifactError, match=r"2 faults\n  - users.parquet is missing\n  - weights.safetensors is truncated"
    ):
        artifact.read(tmp_path / "run", MODELS)


def card_with(run: Path, **changes: Any) -> None:
    """A card as another palate would have written it, with its own hash."""
    card = json.loads((run / "recommender.json").read_text()) | changes
    del card["sha256"]
    (run / "recommender.json").write_text(json.dumps({**card, "sha256": hash_of_card(card)}))


def test_damaged_cards(tmp_path: Path) -> None:
    run = tmp_path / "run"
    artifact.write(run, made())
    whole = (run / "recommender.json").read_text()
    for text, says in [
        (whole.replace('"lr": 0.1', '"lr": 0.2'), "was edited after it was saved"),
        (whole[:-20], "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        (whole.replace('"format": 2', '"format": 3'), "written by a newer palate.*upgrade palate"),
        (whole.replace('"format": 2', '"format": 1'), "has format 1, written by an older palate.*train again"),
    ]:
        (run / "recommender.json").write_text(text)
        with pytest.raises(ArtifactError, match=says):
            artifact.read(run, MODELS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "tide"}, "a model 'tide', which is not one of tied; did you mean 'tied'?.*'tide': YourModel"),
        ({"model": "neumf"}, "which is not one of tied"),
        ({"config": {"dmi": 3}}, r"does not fit this palate .*unknown setting 'dmi'; did you mean 'dim'"),
        ({"config": {"dim": 0}}, "dim = 0 is out of range"),
        ({"config": {"dim": 5}}, "does not fit this palate"),
        ({"spec": {"n_users": 4, "n_items": 9}}, "does not fit this palate"),
        ({"records": [{"epoch": 1, "lost": 0.1}]}, "does not fit this palate"),
        ({"data": {}}, r"is not a card of this format .*data.rows is missing"),
    ],
)
def test_cards_of_another_palate(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    artifact.write(tmp_path / "run", made())
    card_with(tmp_path / "run", **changes)
    with pytest.raises(ArtifactError, match=f"(?s){says}"):
        artifact.read(tmp_path / "run", MODELS)


def test_a_model_is_found_by_its_class_too(tmp_path: Path) -> None:
    artifact.write(tmp_path / "run", replace(made(), name="Tied"))
    assert isinstance(artifact.read(tmp_path / "run", {"mine": Tied}).model, Tied)


def test_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, says in [
        (tmp_path / "no", "no such folder"),
        (tmp_path, "not an artifact"),
        (tmp_path / "file", "not an artifact"),
    ]:
        with pytest.raises(ArtifactError, match=f"{says}; name a folder"):
            artifact.read(path, MODELS)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="cannot save"):
        artifact.write(tmp_path / "file" / "run", made())


def test_the_folder_has_usual_rights(tmp_path: Path) -> None:
    artifact.write(tmp_path / "run", made())
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual.txt").touch()
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert {f.stat().st_mode for f in (tmp_path / "run").iterdir()} == {(tmp_path / "usual.txt").stat().st_mode}
    shutil.rmtree(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["usual", "usual.txt"]
