"""What an ingestion has done so far, kept on disk so that it goes on after it was killed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from palate.data.reading.checks import Conflicts, Examples, Fault, Findings
from palate.errors import ArtifactError


@dataclass
class Checks:
    """The findings of all blocks.

    Attributes:
        faults: Faults by column and reason.
        notes: Each once, in the order of their first appearance.
        later: As in `Findings.later`.
        empty_lines: Number of empty lines.
    """

    faults: dict[str, Fault] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    later: dict[str, Examples] = field(default_factory=dict)
    empty_lines: int = 0

    def add(self, found: Findings) -> None:
        """Add the findings of a block, whose `later` began as ours."""
        for fault in found.faults:
            assert isinstance(fault, Fault)  # what concerns a whole table is in `later`
            self.add_fault(fault)
        self.notes += [note for note in found.notes if note not in self.notes]
        self.empty_lines += found.empty_lines

    def add_fault(self, fault: Fault) -> None:
        """Add a fault to those of the same kind."""
        key = f"{fault.column}: {fault.reason}"
        known = self.faults.get(key)
        rows = fault.rows if known is None else known.rows + fault.rows
        advice = fault.advice if known is None else known.advice
        self.faults[key] = Fault(fault.column, fault.reason, rows, advice)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Checks:
        """From what `asdict` gave."""
        faults = {key: Fault(**{**fault, "rows": _examples(fault["rows"])}) for key, fault in saved["faults"].items()}
        later = {key: _examples(rows) for key, rows in saved["later"].items()}
        return cls(faults, saved["notes"], later, saved["empty_lines"])


def _examples(saved: dict[str, Any]) -> Examples:
    return Examples(saved["count"], tuple(saved["shown"]), saved["values"])


@dataclass
class Merged:
    """What became of repeated rows in the shards that are done.

    Attributes:
        rows: Number of rows that remain.
        counts: As in `Findings.counts`.
        conflicts: Pairs with different values.
        low, high: Lowest and highest rating.
        sums, first_sum: Number of summed ratings outside the scale, and the row where the first one ends.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    conflicts: Conflicts = field(default=Conflicts())
    low: float = np.inf
    high: float = -np.inf
    sums: int = 0
    first_sum: int = 0

    @classmethod
    def of(cls, saved: dict[str, Any]) -> Merged:
        """From what `asdict` gave."""
        first = tuple((u, i, tuple((v, r) for v, r in values)) for u, i, values in saved["conflicts"]["first"])
        conflicts = Conflicts(saved["conflicts"]["count"], first, saved["conflicts"]["column"])
        return cls(**{**saved, "conflicts": conflicts})


@dataclass
class State:
    """How far an ingestion is.

    Attributes:
        phase: "read", "deal", "sort" or "write": what is being done.
        source, position: The source that is being read, and the position in it that `frames` gave last.
        source_rows: Data rows of this source so far.
        rows: Rows in the file of rows.
        block: Number of blocks that were read.
        starts: For each source, the rows of those before it and its name.
        plain_quotes: Sources whose quotes are part of the values.
        columns: Columns of the data set.
        rule: How whole numbers become times (`palate.data.reading.times.time_rule`).
        shard: Number of shards that are sorted.
        bounds: Users at which the shards begin.
        suggestions: Notes on columns that are not used.
        checks, merged: What was found.
    """

    phase: str = "read"
    source: int = 0
    position: int = 0
    source_rows: int = 0
    rows: int = 0
    block: int = 0
    starts: list[tuple[int, str]] = field(default_factory=list)
    plain_quotes: list[int] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rule: str = "1"
    shard: int = 0
    bounds: list[int] = field(default_factory=list)
    suggestions: list[str] = field(default_factory=list)
    checks: Checks = field(default_factory=Checks)
    merged: Merged = field(default_factory=Merged)

    def row_name(self, row: int) -> str:
        """What messages call a row: its number in its source and, of several, the source."""
        before, label = max(start for start in self.starts if start[0] < row or start[0] == 0)
        return f"{row - before}" + (f" of {label}" if len(self.starts) > 1 else "")


class Dictionary:
    """Ids -> codes in the order of their first appearance; new ids are added, and kept on disk.

    Args:
        folder: Where they are kept.
        name: Of the ids, for file names.
        blocks: The number of blocks whose ids count; those of later blocks are removed.
    """

    def __init__(self, folder: Path, name: str, blocks: int) -> None:
        self.folder, self.name = folder, name
        files = sorted(folder.glob(f"{name}-*.parquet"))
        for file in files:
            if int(file.stem.rpartition("-")[2]) >= blocks:
                file.unlink()
        kept = [pl.read_parquet(file)["id"] for file in files if file.exists()]
        self._ids: list[pl.Series] = kept
        self._codes = pl.DataFrame()
        self._refresh()

    def __len__(self) -> int:
        return self._codes.height

    @property
    def ids(self) -> pl.Series:
        """All ids, in the order of their codes."""
        return self._codes["id"]

    @property
    def megabytes(self) -> float:
        """What the ids take in memory, about: their text, their codes and a table to look them up."""
        return float(self._codes.estimated_size("mb")) + 48e-6 * len(self)

    def codes(self, values: pl.Series, block: int) -> np.ndarray:
        """The codes of ids, int32 `[rows]`.

        Args:
            values: Ids, all of one type.
            block: Number of the block they are from.
        """
        frame = values.rename("id").to_frame()
        found = self._look_up(frame)
        if found.null_count():
            new = frame["id"].filter(found.is_null()).unique()
            new.to_frame().write_parquet(self.folder / f"{self.name}-{block:06}.parquet")
            self._ids.append(new)
            self._refresh()
            found = self._look_up(frame)
        return found.to_numpy()

    def _look_up(self, frame: pl.DataFrame) -> pl.Series:
        if not len(self):
            return pl.repeat(None, frame.height, dtype=pl.Int32, eager=True)
        return frame.join(self._codes, on="id", how="left", maintain_order="left")["code"]

    def _refresh(self) -> None:
        ids = pl.concat(self._ids, rechunk=True) if self._ids else pl.Series("id", [], dtype=pl.Int64)
        self._ids = [ids] if self._ids else []
        self._codes = pl.DataFrame({"id": ids, "code": np.arange(len(ids), dtype=np.int32)})


class WorkFolder:
    """The folder of an ingestion beside its target.

    Args:
        folder: The folder.
        state: How far it is.
    """

    def __init__(self, folder: Path, state: State) -> None:
        self.folder, self.state = folder, state
        self.rows = folder / "rows"

    @classmethod
    @contextmanager
    def opened(cls, out: Path, plan: str) -> Iterator[WorkFolder]:
        """The work of this plan that was begun before, or new work.

        Args:
            out: The target.
            plan: A hash of sources and options; work of another plan is thrown away.

        Raises:
            ArtifactError: Another process works in the folder.
        """
        folder = out.parent / f".{out.name}.ingest"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as lock:
            if not _lock(lock):
                raise ArtifactError(f"{folder} is in use: another process writes {out}; wait for it, or stop it")
            state = _load(folder / "state.json") if _text(folder / "plan") == plan else None
            if state is None:
                for path in folder.iterdir():
                    if path.name != "lock":
                        path.unlink()
                (folder / "plan").write_text(plan, encoding="utf-8")
            yield cls(folder, state or State())

    def save(self, name: str = "state.json") -> None:
        """Write the state down; a process that is killed meanwhile leaves the state before."""
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(asdict(self.state)), encoding="utf-8")
        os.replace(new, self.folder / name)

    def begin_source(self) -> None:
        """Keep the state before a source, for `restart_source`."""
        self.save()
        self.save("source.json")

    def restart_source(self) -> None:
        """Go back to the beginning of the source that is being read."""
        state = _load(self.folder / "source.json")
        assert state is not None
        self.state = state

    def sorted_shard(self, number: int) -> Path:
        """The file of a sorted shard."""
        return self.folder / f"sorted-{number:05}"

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _load(path: Path) -> State | None:
    text = _text(path)
    if not text:
        return None
    saved = json.loads(text)
    starts = [(int(before), label) for before, label in saved["starts"]]
    checks, merged = Checks.of(saved["checks"]), Merged.of(saved["merged"])
    return State(**{**saved, "starts": starts, "checks": checks, "merged": merged})


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _lock(file: Any) -> bool:
    """Take the lock of a file, which ends with the process; always, where the platform has no such locks."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
