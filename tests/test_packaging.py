"""What `make wheel` and `make matrix` rest on: lower bounds that can be tried, and a list of every needed package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / ".ci"))

matrix = pytest.importorskip("matrix", reason="this is no checkout: .ci/matrix.py is missing")


def test_the_lowest_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    chosen = matrix.chosen("lowest").splitlines()
    assert "cyclopts==5.4" in chosen
    assert "optuna==5" in chosen
    bounded = {line.partition("==")[0] for line in chosen}
    asked = [*project["dependencies"], *(line for extra in matrix.EXTRAS for line in extras[extra])]
    names = {line.split(";")[0].split("[")[0].partition(">=")[0].partition("==")[0] for line in asked}
    assert names - {"palate"} == bounded, "each requirement of an extra has a lower bound"


def test_torch_stays_where_another_would_bring_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    pinned = matrix.chosen("pinned")
    for versions in matrix.VERSIONS:
        assert next(line for line in pinned.splitlines() if line.startswith("torch==")) in matrix.chosen(versions)
    monkeypatch.setenv("TORCH_INDEX", "https://example.org/cpu")
    assert matrix.chosen("newest") == ""


def test_the_matrix_runs_this_python() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = matrix.interpreter(version)
    if found is None:
        pytest.skip(f"python{version} is neither on PATH nor in ~/.pyenv")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"Python {version}.")
    assert matrix.interpreter("3.1") is None
