"""Forged artifacts: folders of all models, changed at random, and what loading and asking each of them does.

A worker process tries them one after another, so that a signal or a hang is seen as a failure of one of them:

    python forging.py FOLDER SEED FIRST LAST     one line of JSON for each trial
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from palate.data.dataset import Dataset
from palate.errors import ArtifactError, PalateError
from palate.recommender.artifact_files import CARD, WEIGHTS, hash_of_card, hash_of_file
from palate.recommender.recommender import Recommender
from palate.testing import Case

Change = Callable[[random.Random, Path], str]
"""Changes a folder at random; says what it changed."""
CPU_SECONDS = 5
"""Most processor time of one trial."""
WALL_SECONDS = 120
"""Most time of one trial, so that a blocked one ends on a busy machine too."""
MEMORY = 8 * 2**30
"""Most address space of a worker."""


@dataclass(frozen=True)
class Trial:
    """One forged artifact.

    Attributes:
        number: Which one.
        model: Name of the artifact that was changed.
        change: What was changed.
        outcome: "refused" at loading, "answered", "refused later" by a `PalateError`; anything else is a fault.
        seconds: Processor time of loading and asking.
    """

    number: int
    model: str
    change: str
    outcome: str
    seconds: float

    @property
    def sound(self) -> bool:
        """Whether the outcome is one that a user may see."""
        return self.outcome in ("refused", "answered", "refused later")


def make_artifacts(folder: Path, cases: Mapping[str, Case]) -> list[str]:
    """Fit each case briefly on 30 users and save it; returns the names."""
    for name, case in cases.items():
        model = case.new(data := few(case.train))
        training = replace(case.training, epochs=1)
        model.fit(data, training)
        parts = {"test": data.take(np.arange(len(data)) % 9 == 0)} if len(name) % 3 == 0 else {}
        parts = {part: replace(held, history=data) for part, held in parts.items()}
        Recommender(name=_name_of(case), model=model, data=data, training=training, records=[]).save(
            folder / name, parts
        )
    return list(cases)


def _name_of(case: Case) -> str:
    return case.model.__name__


def few(data: Dataset) -> Dataset:
    """The first 30 users, with ids, side tables and kinds."""
    some = data.take(data.user < 30)
    return Dataset.from_frame(
        some.frame(), data.item_table, data.user_table, data.rating_scale, (), data.item_kinds, data.user_kinds
    )


def trials(folder: Path, seed: int, count: int, first: int = 0) -> Iterator[Trial]:
    """Forge and try `count` artifacts, in worker processes that are started anew after a crash."""
    last = first + count
    while first < last:
        started: dict[str, Any] = {"number": first, "model": "", "change": "none yet"}
        # Errors go to a file: a pipe that nobody reads would block the worker.
        with tempfile.TemporaryFile("w+") as errors, _worker(folder, seed, first, last, errors) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                found = json.loads(line)
                if "outcome" in found:
                    first = found["number"] + 1
                    yield Trial(**found)
                else:
                    started = found
            code = worker.wait()
            errors.seek(0)
            words = errors.read()[-300:]
        if first < last:
            yield Trial(**started, outcome=f"the process ended with {code}: {words}", seconds=0.0)
            first = started["number"] + 1


def _worker(folder: Path, seed: int, first: int, last: int, errors: IO[str]) -> subprocess.Popen[str]:
    arguments = [str(folder), *map(str, (seed, first, last))]
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | settings)


def _work(folder: Path, seed: int, first: int, last: int) -> None:
    """Try artifacts; a line before each and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    names = sorted(path.name for path in folder.iterdir() if (path / CARD).is_file())
    forged = folder / f"forged-{os.getpid()}" / "run"
    attempt(folder / names[0])  # What is imported at first use does not count as time of the first trial.
    for number in range(first, last):
        rng = random.Random(f"{seed}-{number}")
        name = names[number % len(names)]
        shutil.rmtree(forged.parent, ignore_errors=True)
        change = forge(rng, folder / name, forged)
        print(json.dumps({"number": number, "model": name, "change": change}), flush=True)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.alarm(WALL_SECONDS)
        start = time.process_time()
        outcome = attempt(forged, verify=rng.random() < 0.7)
        seconds = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        print(json.dumps(vars(Trial(number, name, change, outcome, seconds))), flush=True)
    shutil.rmtree(forged.parent, ignore_errors=True)


def attempt(folder: Path, verify: bool = True) -> str:
    """Load an artifact and ask it all that a user asks."""
    try:
        found = Recommender.load(folder, verify=verify)
    except ArtifactError:
        return "refused"
    except BaseException as error:
        return f"load: {type(error).__name__}: {error}"[:500]
    later = "answered"
    users, items = found.data.users.ids.to_list(), found.data.items.ids.to_list()
    questions: list[Callable[[], object]] = [
        lambda: found.recommend(users[:3], k=5),
        lambda: found.recommend(history=[items[:2], items[1:3]], k=5),
        lambda: found.recommend(users[-1], k=5, explain=False, unknown="popularity"),
        lambda: found.similar(items[0], k=3),
        lambda: found.predict(users[:2], items[:2]),
        lambda: [found.evaluate(part) for part in found.parts.values()],
    ]
    for question in questions:
        try:
            question()
        except PalateError:
            later = "refused later"
        except BaseException as error:
            return f"ask: {type(error).__name__}: {error}"[:500]
    return later


def forge(rng: random.Random, source: Path, target: Path) -> str:
    """Copy an artifact with one or two changes, mostly with hashes that fit; returns what was changed."""
    shutil.copytree(source, target)
    changes = rng.choices([change for change, _ in CHANGES], [weight for _, weight in CHANGES], k=rng.choice((1, 1, 2)))
    said = [_changed(change, rng, target) for change in changes]
    if rng.random() < 0.9 and (target / CARD).is_file():
        said.append(reseal(target))
    return "; ".join(said)


def _changed(change: Change, rng: random.Random, folder: Path) -> str:
    """Make a change if the one before it left what it needs."""
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        return "no file to change"
    try:
        return change(rng, folder)
    except Exception as error:  # the table, the tensors or the card cannot be read, or not be changed like this
        return f"{change.__name__} not possible: {type(error).__name__}"


def reseal(folder: Path) -> str:
    """Write hashes that fit, as an attacker would."""
    try:
        card = json.loads((folder / CARD).read_text())
        files = card.get("files")
        for name, about in files.items() if isinstance(files, dict) else ():
            if isinstance(about, dict) and ".." not in name and (folder / name).is_file():
                about.update(bytes=(folder / name).stat().st_size, sha256=hash_of_file(folder / name))
        card.pop("sha256", None)
        (folder / CARD).write_text(json.dumps({**card, "sha256": hash_of_card(card)}))
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return "not resealed"
    return "resealed"


def _any_file(rng: random.Random, folder: Path, kind: str = "") -> Path:
    return rng.choice(sorted(f for f in folder.rglob(f"*{kind}") if f.is_file()))


def change_bytes(rng: random.Random, folder: Path) -> str:
    """Flip, cut, insert or repeat bytes of a file."""
    file = _any_file(rng, folder)
    content = bytearray(file.read_bytes())
    how = rng.choice(("flip", "flip", "flip", "cut", "insert", "repeat", "empty", "header"))
    place = rng.randrange(max(len(content), 1))
    if how == "flip":
        for _ in range(rng.choice((1, 1, 4, 50))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == "header":
        content[rng.randrange(min(64, len(content)))] = rng.choice((0, 255, 127, 128))
    elif how == "cut":
        del content[place:]
    elif how == "insert":
        content[place:place] = rng.randbytes(rng.randint(1, 20))
    elif how == "repeat":
        content += content[place:]
    else:
        content.clear()
    file.write_bytes(content)
    return f"{how} bytes of {file.name}"


def change_tensor(rng: random.Random, folder: Path) -> str:
    """Change numbers, shape, dtype or name of a tensor."""
    arrays = load_file(folder / WEIGHTS)
    name = rng.choice(sorted(arrays))
    array = arrays[name].copy()
    how = rng.choice(("value", "value", "value", "fill", "shuffle", "dtype", "shape", "drop", "rename", "add", "shift"))
    if how in ("value", "fill"):
        array = _with_values(rng, array, 1 if how == "value" else array.size)
    elif how == "shuffle":
        array = np.array(rng.sample(array.ravel().tolist(), array.size), array.dtype).reshape(array.shape)
    elif how == "dtype":
        array = array.astype(rng.choice(("f8", "f2", "i8", "i4", "u1", "?", "i2")))
    elif how == "shape":
        array = rng.choice(
            (
                array[:-1] if array.ndim else array[None],
                array.ravel(),
                np.append(array.ravel(), array.ravel()),
                array.T.copy(),
            )
        )
    elif how == "shift":
        array = array + np.array(rng.choice((-1, 1, 10)), array.dtype)
    if how == "drop":
        del arrays[name]
    elif how == "add":
        arrays[rng.choice(("extra", "fallback.mean2", ""))] = array
    elif how == "rename":
        arrays[rng.choice(("fallback.mean", "item", f"{name}.x"))] = arrays.pop(name)
    else:
        arrays[name] = np.ascontiguousarray(array)
    save_file(arrays, folder / WEIGHTS)
    return f"{how} of tensor {name}"


def _with_values(rng: random.Random, array: np.ndarray, count: int) -> np.ndarray:
    if not array.size:
        return array
    if array.dtype.kind == "f":
        value: Any = rng.choice((np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e30, 1e-40, 0.0, -1.0))
    else:
        low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
        value = rng.choice((low, high, -1, 0, 1, 79, 80, 10_000, 2**30, low + 1, high - 1))
    flat = array.ravel()
    flat[rng.sample(range(array.size), count)] = value
    return flat.reshape(array.shape)


def change_table(rng: random.Random, folder: Path) -> str:
    """Change values, types, columns or rows of a table."""
    file = _any_file(rng, folder, ".parquet")
    table = pl.read_parquet(file)
    name = rng.choice(table.columns)
    how = rng.choice(
        ("value", "value", "value", "null", "cast", "drop", "rename", "rows", "order", "twice", "more", "swap")
    )
    row = rng.randrange(max(len(table), 1))
    if how == "value":
        value = rng.choice(
            (-1, 0, 1, 30, 80, 2**30, 2**31 - 1, -(2**31), 2**62, 0.5, float("nan"), float("inf"), "", "u000", "\x00")
        )
        changed = pl.Series(name, [value if i == row else v for i, v in enumerate(table[name].to_list())], strict=False)
        table = table.with_columns(changed.cast(table.schema[name], strict=False) if rng.random() < 0.8 else changed)
    elif how == "null":
        table = table.with_columns(
            pl.when(pl.int_range(pl.len()) == row).then(None).otherwise(pl.col(name)).alias(name)
        )
    elif how == "cast":
        to = rng.choice(
            (pl.Int64, pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Boolean, pl.Date, pl.Null, pl.Binary)
        )
        table = table.with_columns(pl.col(name).cast(to, strict=False))
    elif how == "drop":
        table = table.drop(name)
    elif how == "rename":
        table = (
            table.rename({name: rng.choice(("user", "item_id", "x", "weight", "rating"))}, strict=False)
            if name != "x"
            else table
        )
    elif how == "rows":
        table = table.head(rng.choice((0, 1, 10, len(table) - 1)))
    elif how == "order":
        table = table.sample(fraction=1.0, shuffle=True, seed=rng.randrange(1000))
    elif how == "twice":
        table = pl.concat([table, table])
    elif how == "more":
        table = pl.concat([table, table.slice(row, 1)])
    else:
        table = table.select(rng.sample(table.columns, len(table.columns)))
    table.write_parquet(file)
    return f"{how} in {name} of {file.name}"


WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**6, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "mf", "EASE", "../../etc/passwd", "/etc/passwd", "\x00", [], {}, [[]], [None], {"a": 1}, [1, 2], ["ease", "mf"],
)  # fmt: skip
"""Values that a card may hold in any place."""


def change_card(rng: random.Random, folder: Path) -> str:
    """Change a value of the card, at any depth, or its text."""
    file = folder / CARD
    try:
        card = json.loads(file.read_text())
    except ValueError:
        return "unreadable card"
    if rng.random() < 0.1:
        text = rng.choice(
            ("[" * 100_000, '{"a":' * 100_000, "[]", "null", "1", '"x"', "{}", json.dumps(card)[:-9], "9" * 10_000)
        )
        file.write_text(text)
        return "text of the card"
    here, path = card, []
    while True:
        key = rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        path.append(str(key))
        if not (isinstance(here[key], (dict, list)) and here[key] and rng.random() < 0.8):
            break
        here = here[key]
    how = rng.choice(("value", "value", "value", "scale", "drop", "add", "nest"))
    value = rng.choice(WORDS)
    if how == "scale" and type(here[key]) in (int, float):
        value = here[key] * rng.choice((-1, 2, 1000, 10**9)) + rng.choice((-1, 0, 1))
    if how == "nest":
        for _ in range(rng.choice((1, 3, 300))):
            value = rng.choice(([value], {"model": "hybrid", "config": value}, {"members": [value]}))
    if how == "drop":
        del here[key]
    elif how == "add" and isinstance(here, dict):
        here[rng.choice(("x", "../x", "/tmp/x", "item_features", "valid", "new_items", "history.parquet", "extra"))] = (
            value
        )
    else:
        here[key] = value
    try:
        card.pop("sha256", None)
        file.write_text(json.dumps({**card, "sha256": hash_of_card(card)}))
    except RecursionError:
        return "card too deep to write"
    return f"{how} at {'.'.join(path)[:80]}: {str(value)[:40]}"


def change_folder(rng: random.Random, folder: Path) -> str:
    """Remove, link or replace a file."""
    file = _any_file(rng, folder)
    how = rng.choice(("remove", "link out", "link in", "folder", "fifo", "other file"))
    content = file.read_bytes()
    file.unlink()
    if how == "link out":
        (folder.parent / "outside").write_bytes(content)
        file.symlink_to(folder.parent / "outside")
    elif how == "link in":
        (folder / "inside").write_bytes(content)
        file.symlink_to(folder / "inside")
    elif how == "folder":
        file.mkdir()
    elif how == "fifo":
        os.mkfifo(file)
    elif how == "other file":
        file.write_bytes(_any_file(rng, folder).read_bytes())
    return f"{how} for {file.name}"


CHANGES: list[tuple[Change, int]] = [
    (change_bytes, 3), (change_tensor, 6), (change_table, 5), (change_card, 6), (change_folder, 1)
]  # fmt: skip


if __name__ == "__main__":
    _work(Path(sys.argv[1]), *map(int, sys.argv[2:]))
