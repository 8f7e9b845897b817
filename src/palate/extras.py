"""Optional packages: the error if one is missing, with the command that installs it.

palate is on no package index, so `pip install 'palate[tune]'` finds nothing. The command depends on how palate itself
was installed, which the metadata of the installation tell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from palate.errors import MissingExtra

_OF_EXTRA = re.compile(r"""([^;]+?)\s*;\s*(?:(.+?)\s+and\s+)?extra\s*==\s*['"]([^'"]+)['"]\s*""")
"""A line of `Requires-Dist`: the requirement, its marker if it has one, and the extra."""


def missing_extra(need: str, extra: str, otherwise: str = "") -> MissingExtra:
    """The error for a missing package, to be raised.

    Args:
        need: What needs which package, for example "plots need matplotlib".
        extra: Name of the extra that holds the package, as in pyproject.toml.
        otherwise: What to do instead of installing it; ends the message. Defaults to nothing.
    """
    return MissingExtra(f"{need}: {install_command(extra)}" + (otherwise and f", or {otherwise}"))


def require(package: str, need: str, extra: str, otherwise: str = "") -> None:
    """Check that a package is installed, before work that would be lost without it; the package is not imported.

    Args:
        package: Name under which it is imported.
        need, extra, otherwise: As in `missing_extra`.

    Raises:
        MissingExtra: It is not installed.
    """
    if find_spec(package) is None:
        raise missing_extra(need, extra, otherwise)


def install_command(extra: str, installed: Distribution | None = None) -> str:
    """The command that installs an extra beside palate, quoted for the shell.

    It names the folder of an editable installation, the wheel or repository that palate was installed from, or else the
    packages of the extra themselves.

    Args:
        extra: Name of the extra.
        installed: The installed palate. Defaults to the one that this interpreter finds.
    """
    try:
        installed = installed or distribution("palate")
    except PackageNotFoundError:  # imported from a folder that was never installed
        return f"install the packages that pyproject.toml of palate lists for the extra {extra!r}"
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    pip = [sys.executable, "-m", "pip", "install"]
    if find_spec("pip") is None:  # an environment made by uv
        pip = ["uv", "pip", "install", "--python", sys.executable]
    words = [*pip, *(_from_origin(origin, extra) or _packages(installed.requires or (), extra))]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def _from_origin(origin: dict[str, Any], extra: str) -> list[str]:
    """What names palate and the extra to pip, by the origin it was installed from; empty if the origin is gone."""
    url = urlsplit(origin.get("url", ""))
    place = Path(url2pathname(url.path)) if url.scheme == "file" else None
    if place is not None and not place.exists():
        return []
    if place is not None and origin.get("dir_info", {}).get("editable"):
        return ["-e", f"{place}[{extra}]"]
    if version := origin.get("vcs_info"):
        return [f"palate[{extra}] @ {version['vcs']}+{origin['url']}@{version['commit_id']}"]
    return [f"palate[{extra}] @ {origin['url']}"] if "archive_info" in origin else []


def _packages(requires: Iterable[str], extra: str) -> list[str]:
    """The requirements of an extra, with their markers."""
    found = [match for line in requires if (match := _OF_EXTRA.fullmatch(line))]
    return [name if marker is None else f"{name}; {marker}".replace("'", '"')
            for name, marker, of in (match.groups() for match in found) if of == extra]  # fmt: skip
