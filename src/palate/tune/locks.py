"""Locks between processes that share a folder, and files that appear whole.

A lock belongs to an open file of a process, so the operating system releases it however the process ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL = 0.2
"""Seconds between two looks at what other processes have finished."""


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock `name` of a folder; waits for it."""
    with FileLock(_file(folder, name)):
        yield


@contextmanager
def try_lock(folder: Path, name: str) -> Iterator[bool]:
    """Hold the lock `name` of a folder if it is free; gives whether it was."""
    lock = FileLock(_file(folder, name))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        free = False
    else:
        free = True
    try:
        yield free
    finally:
        if free:
            lock.release()


def write_whole(path: Path, text: str) -> None:
    """Write a file that other processes see whole or not at all; the folder must be locked."""
    half = path.with_name(path.name + ".tmp")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def _file(folder: Path, name: str) -> Path:
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    return folder / "locks" / f"{name}.lock"
