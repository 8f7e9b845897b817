"""Empty environments for `wheel.py` and `matrix.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("beartype", "httpx", "hypothesis", "pytest", "pytest-timeout")
"""What the tests need beside palate and the extras that they skip without."""


def run(*words: object, folder: Path) -> None:
    """Run a command in a folder; palate is imported from the environment's packages alone.

    Raises:
        SystemExit: It failed.
    """
    print("$", *words, flush=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    code = subprocess.run(list(map(str, words)), cwd=folder, env=clean, check=False).returncode
    if code:
        sys.exit(f"exit status {code}: {' '.join(map(str, words))}")


def environment(python: str, folder: Path) -> Path:
    """Make an empty environment; returns its interpreter."""
    run(python, "-m", "venv", folder, folder=folder.parent)
    return folder / "bin" / "python"


def install(interpreter: Path, *words: object) -> None:
    """Install with pip; modules are compiled when they are imported, which saves half of the time."""
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    run(interpreter, "-m", "pip", "install", *quiet, *index, *words, folder=interpreter.parents[2])


def copied_tests(folder: Path) -> Path:
    """The tests and their settings outside the repository, so that they find the installed palate only."""
    folder.mkdir()
    for name in ("tests", "examples", "pyproject.toml", "README.md", "CHANGELOG.md"):
        run("cp", "-r", ROOT / name, folder, folder=folder)
    return folder
