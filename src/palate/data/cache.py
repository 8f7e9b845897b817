"""The folder of downloaded and computed files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """The cache folder: the environment variable PALATE_CACHE, or by default the platform's folder for caches."""
    named = os.environ.get("PALATE_CACHE")
    return Path(named).expanduser() if named else user_cache_path("palate")


def unwritable(path: Path, error: Exception) -> str:
    """Message for a cache file that cannot be written: why, and what to do."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
    advice = "free some space, or set the environment variable PALATE_CACHE to another folder"
    return f"{path} cannot be written: {why}; {advice}"
