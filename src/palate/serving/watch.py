"""Watch: swaps in a new run without a failed request, and keeps the old one if the new one is broken."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from palate.errors import DataError, PalateError
from palate.recommender.artifact_files import CARD
from palate.serving.logs import log, log_failure
from palate.serving.served import Served, load_run
from palate.serving.service import Service

WATCH_SECONDS = 1.0


class Watch:
    """Looks for a newer run once a second; loading happens on a thread while the old run answers.

    Args:
        service: Whose first run is replaced.
        folder: A run, or a folder of runs.
        served: The run that is replaced.
    """

    def __init__(self, service: Service, folder: Path, served: Served) -> None:
        self.service, self.folder, self.name = service, folder, served.name
        self._task: asyncio.Task[None] | None = None
        self._known = None if served.folder is None else identity(served.folder)

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.look()
            except Exception as error:  # Whatever it is, the old run goes on answering.
                log_failure("swap-failed", error)

    async def look(self) -> bool:
        """Swap in the newest run if it is not the one that is served; says whether it did."""
        newest = newest_run(self.folder)
        if newest is None or (seen := identity(newest)) == self._known:
            return False
        # A broken run is not tried again until it changes.
        self._known = seen
        loop = asyncio.get_running_loop()
        service, old = self.service, self.service.run(self.name)
        try:
            new = await loop.run_in_executor(
                service.background, load_run, newest, self.name, service.settings.exact_items
            )
            same_ids(old, new)
            await service.replace_run(new)
        except PalateError as error:
            service.metrics.swaps.labels("refused").inc()
            log("swap-refused", run=newest.name, reason=str(error)[:1000], kept=old.model_id)
            return False
        service.metrics.swaps.labels("done").inc()
        return True


def newest_run(folder: Path) -> Path | None:
    """The folder itself if it is a run, else the run in it that was saved last; None for none."""
    if (folder / CARD).is_file():
        return folder
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            if not path.name.startswith(".") and (path / CARD).is_file():
                with suppress(OSError):
                    found.append(((path / CARD).stat().st_mtime_ns, path))
    return max(found)[1] if found else None


def identity(folder: Path) -> tuple[str, int, int, int] | None:
    """What differs once a run was replaced."""
    try:
        about = (folder / CARD).stat()
    except OSError:
        return None
    return str(folder.resolve()), about.st_ino, about.st_mtime_ns, about.st_size


def same_ids(old: Served, new: Served) -> None:
    """Refuse a run whose ids are of another type.

    Raises:
        DataError: Feedback that is stored for the one could not be read for the other.
    """
    for what in ("users", "items"):
        one, other = getattr(old.rec.data, what), getattr(new.rec.data, what)
        if one.is_text != other.is_text:
            kinds = [("text" if ids.is_text else "whole numbers") for ids in (one, other)]
            raise DataError(f"ids of {what} were {kinds[0]} and are {kinds[1]} in the new run; serve it separately")
