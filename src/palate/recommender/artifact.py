"""The artifact: a recommender as a folder that holds data only, no code and no pickle.

    recommender.json       format, model name, settings, counts, versions, records, metrics, sha256 of every other file
    weights.safetensors    the model's tensors
    users.parquet          ids in index order, and the user table; likewise items.parquet
    interactions.parquet   the training rows as indices: seen items, histories, co-occurrence
    valid/, test/          the held-out parts, in the same three tables, if they were kept

`fresh_model` builds the untrained model that a new recommender starts from.

A folder is written under another name next to its place, then renamed: a full disk or a kill leaves the old one whole.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, Self

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import save_model

import palate
from palate.config import Training, from_dict, to_dict
from palate.data.dataset import Dataset, Spec
from palate.data.notebook import table_of
from palate.data.queries import FEATURES
from palate.data.splits.build import joined_rows
from palate.device import on_device, resolve_device
from palate.errors import ArtifactError, ConfigError, PalateError, quoted
from palate.models import MODELS
from palate.models.base import GradientModel, Model
from palate.models.buffers import check_tensors
from palate.recommender.artifact_files import (
    CARD,
    FORMAT,
    HISTORY,
    PARTS,
    TABLES,
    WEIGHTS,
    check_files,
    checked_scale,
    hash_of_file,
    read_card,
    read_tables,
    replaced_folder,
    seal,
    write_tables,
)
from palate.recommender.artifact_weights import load_model
from palate.training.train_run import Epoch, best_epoch

_COUNTS = ("n_users", "n_items", "rating_scale")
_OWN = {CARD, WEIGHTS, *TABLES, HISTORY, *PARTS}
"""What an artifact may hold, and a new one replaces. Other files in the folder stay."""
SWAP_SECONDS = 2.0
"""How long a load waits for a folder that another process is about to put in its place."""
RETRY_SECONDS = 30.0
"""How long a load tries again while other processes replace the folder."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Artifact:
    """What a folder holds.

    Attributes:
        name: The model's name in `MODELS`; the class's name for a model of your own.
        model: The fitted model, which speaks indices.
        data: The training data: ids, titles, histories.
        training: The training settings.
        records: The record of each epoch; empty for models without epochs.
        parts: Held-out parts of the split whose train part is `data`, by name: valid, test.
    """

    name: str
    model: Model
    data: Dataset
    training: Training
    records: list[Epoch]
    parts: Mapping[str, Dataset] = field(default_factory=dict)

    def to(self, device: str) -> Self:
        """Let the model answer on another device; lists, ratings and explanations still come back to the CPU.

        Args:
            device: cpu, cuda, cuda:1, mps or another of PyTorch's devices; auto is the accelerator if there is one.

        Returns:
            This recommender, whose model has moved.

        Raises:
            ConfigError: There is no such device on this machine.
        """
        self.model.to(resolve_device(device))
        return self

    def __repr__(self) -> str:
        return "\n".join([f"Recommender: {self.name}", *(f"  {name:15}{value}" for name, value in self._summary())])

    def _repr_html_(self) -> str:
        """The summary as a table, for notebooks."""
        return table_of([("recommender", self.name), *self._summary()])

    def _summary(self) -> list[tuple[str, str]]:
        """Names and values of the lines that describe this recommender."""
        data, best = self.data, best_epoch(self.records)
        counts = f"{data.n_users:,} users, {data.n_items:,} items, {len(data):,} interactions"
        chosen = "" if best is None else f", best is {best.epoch}"
        trained = f"{len(self.records):,} epochs{chosen}" if self.records else "without epochs"
        parts = ", ".join(f"{name} {len(part):,} interactions" for name, part in self.parts.items())
        answers = ", ".join(sorted(self.model.answers)) or "popularity"
        return [("trained on", counts), ("training", trained), ("held out", parts or "none"), ("answers", answers)]

    @cached_property
    def known(self) -> Dataset:
        """All known interactions: the training data and, under its indices, the held-out parts."""
        return joined_rows(self.data, list(self.parts.values())) if self.parts else self.data


def fresh_model(model: str | Model, config: Any, data: Dataset) -> tuple[str, Model]:
    """A model's name, and the untrained model built for the data.

    Args:
        model: A name in `MODELS`, or a model object, which is checked against the data.
        config: Settings of a model given by name: its `Config` or a dict of its fields; None for the defaults.
        data: The training data.

    Raises:
        ConfigError: There is no such model or setting, or the model object was built for other data.
        DataError: The data lacks features that the model needs.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from palate.training.processes import join

        join()  # From here on the processes train together.
    if isinstance(model, Model):
        if config is not None:
            raise ConfigError("config= goes with a model's name; a model object has its own settings")
        _check_spec(model, data)
        return next((name for name, known in MODELS.items() if known is type(model)), type(model).__name__), model
    if model not in MODELS:
        near = get_close_matches(str(model), MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no model {model!r}; choose one of {', '.join(MODELS)}{hint}")
    kind = MODELS[model]
    if not isinstance(config, (kind.Config, Mapping, type(None))):
        raise ConfigError(
            f"config for {model!r} must be a {kind.Config.__name__} or a dict, not {type(config).__name__}"
        )
    settings = config if isinstance(config, kind.Config) else from_dict(kind.Config, dict(config or {}))
    data.require(kind.needs & FEATURES, kind.__name__)
    return model, kind(settings, kind.spec_of(data))


def uses_training(model: type[Model]) -> bool:
    """Whether a model takes gradient steps, itself or through its members, and so uses more of `Training` than `seed`.

    Models with members leave settings of their `default_training` open.
    """
    return issubclass(model, GradientModel) or model.default_training == Training()


def _check_spec(model: Model, data: Dataset) -> None:
    wanted = model.spec_of(data)
    if model.spec == wanted or (model.spec == data.spec and not model.needs & FEATURES):
        return
    name = type(model).__name__
    if replace(model.spec, item_features=wanted.item_features, user_features=wanted.user_features) == wanted:
        raise ConfigError(
            f"{name} was built for other features than this data's; build it with {name}(config, {name}.spec_of(data))"
        )
    built, given = (
        f"{spec.n_users} users, {spec.n_items} items and rating scale {spec.rating_scale}"
        for spec in (model.spec, wanted)
    )
    raise ConfigError(f"{name} was built for {built}, but the data has {given}; build it on data.spec")


def write(path: str | Path, artifact: Artifact) -> None:
    """Write a folder; an old one is replaced only once the new one is complete and on disk.

    Files in the old folder that are not the artifact's own (reports, notes) are kept. What an interrupted save left
    behind is removed.

    Raises:
        ArtifactError: It cannot be written (no space, no permission), the folder holds something else, or the model or
            the data could not be loaded again (NaN, indices out of range).
    """
    path = Path(path).resolve()
    check_place(path)
    check_tensors(artifact.model)
    if not set(artifact.parts) <= set(PARTS):
        raise ConfigError(f"parts are called valid or test, not {', '.join(artifact.parts)}")
    try:
        with _new_folder(path) as new:
            _fill(new, artifact)
            _swap(new, path)
    except (OSError, SafetensorError, pl.exceptions.PolarsError) as error:
        what = getattr(error, "strerror", None) or error
        kept = "; the old artifact is unchanged" if path.exists() else ""
        raise ArtifactError(f"cannot save {path}: {what}{kept}. Free space there, or name another folder") from error


def check_place(path: Path) -> None:
    """Refuse a path that holds something else: only artifacts are replaced.

    Raises:
        ArtifactError: The path is a file, or a folder that is neither empty nor an artifact.
    """
    if path.exists() and not (path / CARD).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise ArtifactError(f"{path} exists and is not an artifact; nothing was written. Name another folder")


def read(path: str | Path, models: Mapping[str, type[Model]], verify: bool = True) -> Artifact:
    """Read a folder; every file is checked against the hash it was written with, and every array before it is used.

    Args:
        path: The folder.
        models: Where the model's class is looked up, by the saved name or else by the class's name.
        verify: Whether to compare the hashes of the files, which reads each file twice. All other checks are made in
            any case.

    Raises:
        ArtifactError: The folder is missing, incomplete, edited, of a newer format, or of a model not in `models`.
    """
    path, start = Path(path), time.monotonic()
    while True:
        before = _identity(path)
        try:
            found = _read(path, models, verify)
            if _identity(path) == before:
                return found
            fault = ArtifactError(f"{path} was replaced while it was read, again and again; load it later")
        except (ArtifactError, OSError) as error:
            fault = error if isinstance(error, ArtifactError) else ArtifactError(f"{path} cannot be read: {error}")
            # Another process may have replaced the folder meanwhile, or is about to; otherwise the fault is real.
            swapping = not path.exists() and replaced_folder(path).exists() and time.monotonic() < start + SWAP_SECONDS
            if _identity(path) == before and not swapping:
                raise fault from None
        if time.monotonic() > start + RETRY_SECONDS:
            raise fault
        time.sleep(0.02)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What differs once a folder was replaced."""
    try:
        about = (path / CARD).stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_mtime_ns


def _read(path: Path, models: Mapping[str, type[Model]], verify: bool) -> Artifact:
    card = read_card(path)
    check_files(path, card, verify)
    model_class = _model_class(path, card["model"], models)
    try:
        spec = _checked_spec(from_dict(Spec, card["spec"]))
        data = read_tables(path, card["data"], (spec.n_users, spec.n_items))
        return Artifact(
            name=card["model"],
            data=data,
            parts={name: read_tables(path / name, about) for name, about in card["parts"].items()},
            training=from_dict(Training, card["training"]),
            records=[_record(record) for record in card["records"]],
            model=load_model(model_class, from_dict(model_class.Config, card["config"]), spec, path / WEIGHTS),
        )
    # A forged folder can make any line above fail: whatever it raises is a fault of the folder. Polars panics on some
    # broken Parquet files.
    except (Exception, pl.exceptions.PanicException) as error:
        what = str(error) if isinstance(error, PalateError) else f"{type(error).__name__}: {str(error)[:300]}"
        versions = f"palate {palate.__version__}; it was written with {card.get('versions')}"
        raise ArtifactError(f"{path} does not fit this {versions}: {what}") from error


def _record(values: Any) -> Epoch:
    """The record of an epoch from plain values."""
    record = Epoch(**values)
    numbers = (record.epoch, record.loss, record.seconds, record.samples, *record.valid.values())
    if not all(type(n) in (int, float) for n in numbers) or {type(record.member), type(record.loss_name)} != {str}:
        raise ArtifactError(f"{quoted(values)} is not the record of an epoch")
    return record


def _checked_spec(spec: Spec) -> Spec:
    """A spec whose counts and scale are possible."""
    if spec.n_users < 1 or not 0 <= spec.new_items < spec.n_items:
        raise ArtifactError(f"{spec.n_users} users and {spec.n_items} items, {spec.new_items} of them new")
    return replace(spec, rating_scale=checked_scale(spec.rating_scale))


def _fill(folder: Path, artifact: Artifact) -> None:
    with on_device(artifact.model, None, "cpu"):
        save_model(artifact.model, str(folder / WEIGHTS))
    data = write_tables(folder, artifact.data)
    parts = {name: write_tables(folder / name, part) for name, part in artifact.parts.items()}
    shutil.copymode(folder / "users.parquet", folder / WEIGHTS)  # safetensors makes files for the owner alone
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    best = best_epoch(artifact.records)
    card = {
        "format": FORMAT,
        "model": artifact.name,
        "config": to_dict(artifact.model.config),
        "spec": _spec(artifact.model.spec),
        "answers": sorted(artifact.model.answers),
        "needs": sorted(artifact.model.needs),
        "training": to_dict(artifact.training),
        "data": data,
        "parts": parts,
        "records": [asdict(record) for record in artifact.records],
        "metrics": {} if best is None else {f"valid {name}": value for name, value in best.valid.items()},
        "versions": {"palate": palate.__version__, "torch": str(torch.__version__)},
        "files": {
            f.relative_to(folder).as_posix(): {"bytes": f.stat().st_size, "sha256": hash_of_file(f)} for f in files
        },
    }
    (folder / CARD).write_text(seal(card), encoding="utf-8")
    for file in [*files, folder / CARD, *{f.parent for f in files}]:
        _to_disk(file)


def _spec(spec: Spec) -> dict[str, Any]:
    """Without defaults, so that versions of palate without features read the artifacts of models without features."""
    return {name: value for name, value in to_dict(spec).items() if name in _COUNTS or value}


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write to, locked while it is written; what killed saves left there is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _locked(path.parent):
            for left in path.parent.glob(f".{escape(path.name)}.*.new"):
                with _locked(left, wait=False) as free:
                    if free:
                        shutil.rmtree(left, ignore_errors=True)
            new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
            new.mkdir()
            stack.callback(shutil.rmtree, new, ignore_errors=True)
            stack.enter_context(_locked(new))
        yield new


@contextmanager
def _locked(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a folder, which ends with the process too; gives whether it was free."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            free = True
        except OSError:  # Somebody holds it, or the file system has no locks.
            free = False
        yield free
    finally:
        os.close(handle)


def _swap(new: Path, path: Path) -> None:
    """Put the new folder in place of the old one. Renames only: none of them needs space."""
    old = replaced_folder(path)
    with _locked(path.parent):
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        for other in old.iterdir() if old.is_dir() else ():
            if other.name not in _OWN and not (path / other.name).exists():
                other.rename(path / other.name)
        shutil.rmtree(old, ignore_errors=True)
        _to_disk(path.parent)


def _model_class(path: Path, name: str, models: Mapping[str, type[Model]]) -> type[Model]:
    if name in models:
        return models[name]
    for found in models.values():
        if found.__name__ == name:
            return found
    near = get_close_matches(name, [*models, *(m.__name__ for m in models.values())], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ArtifactError(
        f"{path} holds a model {name!r}, which is not one of {', '.join(models)}; {hint}"
        f"For a model of your own: Recommender.load(path, models={{**MODELS, {name!r}: YourModel}})"
    )


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
