"""Downloads: resumed when interrupted, verified by checksum, moved into place only when complete."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from io import FileIO
from pathlib import Path

from palate.data.cache import unwritable
from palate.errors import SourceError

_BLOCK_BYTES = 1 << 18
_MAX_TRIES = 3
_TIMEOUT_SECONDS = 20.0

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and expected (None: unknown)."""


def fetch(urls: Sequence[str], target: Path, checksum: str, progress: Progress | None = None) -> Path:
    """Download a file, unless it exists.

    An interrupted download is resumed, within a call and by the next call (from `target` plus `.part`).

    Args:
        urls: URLs of the same file, tried in order.
        target: Path of the file; its folder is created.
        checksum: "sha256:..." or "md5:...".
        progress: Called with the progress. Defaults to a bar on the terminal.

    Returns:
        `target`.

    Raises:
        SourceError: No URL answers, the checksum differs, or the file cannot be written.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(unwritable(target.parent, error)) from error
    part = target.with_name(target.name + ".part")
    faults = []
    for url in urls:
        try:
            with _reporting(target.name, progress) as report:
                _download(url, part, report)
        except (OSError, HTTPException) as error:
            faults.append(f"{url}: {_reason(error)}")
            continue
        found = digest(part, checksum.partition(":")[0])
        if found == checksum:
            part.replace(target)
            return target
        part.unlink()
        faults.append(f"{url}: the file has checksum {found}, expected {checksum}; it was deleted")
    raise SourceError.faults(f"{target.name} cannot be downloaded", faults)


def digest(path: Path, algorithm: str) -> str:
    """The checksum of a file, "sha256:..." or "md5:..."."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
    return f"{algorithm}:{found.hexdigest()}"


def fetch_wheel(requirement: str, wheel: str, target: Path, checksum: str) -> Path:
    """Download a wheel with pip, without its dependencies, unless it exists.

    Args:
        requirement: Name and version, `name==1.2.3`.
        wheel: Name of the wheel's file.
        target: Path of the file.
        checksum: As in `fetch`.

    Returns:
        `target`.

    Raises:
        SourceError: pip fails, or the checksum differs.
    """
    if target.exists():
        return target
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", folder, requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SourceError(f"pip download {requirement}: {error}") from error
        if done.returncode or not Path(folder, wheel).exists():
            reason = (done.stderr.strip() or "pip downloaded no such wheel").splitlines()[-1]
            raise SourceError(f"pip download {requirement}: {reason}")
        found = digest(Path(folder, wheel), checksum.partition(":")[0])
        if found != checksum:
            raise SourceError(f"pip download {requirement}: the wheel has checksum {found}, expected {checksum}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(target.name + ".part")
            shutil.copyfile(Path(folder, wheel), part)
            part.replace(target)
        except OSError as error:
            raise SourceError(unwritable(target, error)) from error
    return target


def _download(url: str, part: Path, progress: Progress) -> None:
    """Complete `part`, resuming after each interruption as long as some bytes arrive."""
    tries = 0
    while True:
        before = _size(part)
        try:
            _continue(url, part, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 416 or not before:  # Range Not Satisfiable
                raise
            if error.headers.get("Content-Range") == f"bytes */{before}":  # the file is complete
                return
            part.unlink(missing_ok=True)
            tries += 1
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError):
            tries = 0 if _size(part) > before else tries + 1
            if tries >= _MAX_TRIES or _size(part) == 0:
                raise
        if tries >= _MAX_TRIES:
            raise HTTPException("the server refuses to send the rest of the file")


def _continue(url: str, part: Path, progress: Progress) -> None:
    start = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "palate", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
        if answer.status != 206:  # the server sends the whole file
            start = 0
        total = _total(answer.headers, start)
        if total is not None:
            _check_space(part, total - start)
        with part.open("ab" if start else "wb", buffering=0) as file:
            have = start
            progress(have, total)
            while block := answer.read(_BLOCK_BYTES):
                _write(file, block, part)
                have += len(block)
                progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have:,} of {total:,} bytes")


def _write(file: FileIO, block: bytes, part: Path) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError as error:
        raise SourceError(unwritable(part, error)) from error


def _total(headers: HTTPMessage, start: int) -> int | None:
    length = headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise SourceError(
            f"{part.parent} has {free:,} bytes free, {needed:,} are needed: free some space, or set the environment "
            "variable PALATE_CACHE to another folder"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return str(getattr(error, "reason", "")) or str(error) or type(error).__name__


@contextmanager
def _reporting(name: str, progress: Progress | None) -> Iterator[Progress]:
    """The given function or, by default, a bar on the terminal (if stderr is one)."""
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as RichProgress

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with RichProgress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)
