"""`make matrix`: tests and demo under several Pythons, and with the lowest and newest versions of what palate needs.

Run by a person before a release, not in CI: PyTorch for another Python takes gigabytes and minutes.

    python .ci/matrix.py --python 3.12 --versions pinned --test tests/test_recommender.py

Rows: every Python with the versions of constraints.txt (pinned), the oldest with the lowest versions, the newest with
the newest. The lowest are those that pyproject.toml allows for palate and its users' extras; tools that only the tests
use are free. PyTorch is always the one of constraints.txt, which is the lowest too: another may come with CUDA.
`TORCH_INDEX`, as in the Makefile, names an index of builds without CUDA, and then "newest" takes the newest PyTorch.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from environments import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
VERSIONS = ("pinned", "lowest", "newest")
EXTRAS = ("ann", "client", "explain", "images", "mcp", "onnx", "pandas", "plots", "serve", "sql", "track", "tune")
"""Extras of palate's users that any Python and any machine can install."""


def main() -> None:
    """Make each environment, run tests and demo in it, and print the table."""
    asked = arguments()
    pythons = {version: found for version in asked.python or PYTHONS if (found := interpreter(version))}
    missing = [version for version in asked.python or PYTHONS if version not in pythons]
    rows = [(version, "pinned") for version in pythons]
    rows += [(next(iter(pythons)), "lowest"), (list(pythons)[-1], "newest")] if pythons else []
    folder = ROOT / "runs" / "matrix"
    results = []
    for version, versions in rows:
        if versions not in (asked.versions or VERSIONS):
            continue
        place = folder / f"{version}-{versions}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        results.append((version, versions, *tried(pythons[version], versions, place, asked.test)))
        if not asked.keep:
            shutil.rmtree(place / "env", ignore_errors=True)
    print("\npython  versions  install      tests        demo         log")
    for version, versions, *states in results:
        print(
            f"{version:6}  {versions:8}  "
            + "  ".join(f"{s:11}" for s in states)
            + f"  runs/matrix/{version}-{versions}"
        )
    for version in missing:
        print(f"{version:6}  no such Python on PATH or in ~/.pyenv")
    if any("failed" in state for row in results for state in row):
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    """What is asked for; by default everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", help="a version, for example 3.12; may be given several times")
    parser.add_argument("--versions", action="append", choices=VERSIONS, help="may be given several times")
    parser.add_argument("--test", nargs="+", default=["tests"], help="some tests instead of all")
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    return parser.parse_args()


def interpreter(version: str) -> str | None:
    """The path of a Python that runs, on PATH or installed by pyenv."""
    homes = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in (shutil.which(f"python{version}"), *map(str, homes)):
        # pyenv puts a command of this name on PATH even where its version is not chosen.
        if candidate and not subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode:
            return candidate
    return None


def tried(python: str, versions: str, place: Path, tests: Sequence[str]) -> list[str]:
    """Install, test and demo; each "12 s", "failed 12 s" or "-"."""
    env = place / "env"
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    pip = [env / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", *index]
    constraints = place / "constraints.txt"
    constraints.write_text(chosen(versions), encoding="utf-8")
    subprocess.run([python, "-m", "venv", env], check=True)
    names = ",".join((*EXTRAS, "test"))
    # Old and new libraries warn of each other; only with the versions of constraints.txt are such warnings errors.
    warned = [] if versions == "pinned" else ["-W", "default::DeprecationWarning"]
    steps = {
        "install": [*pip, "-c", constraints, "-e", f"{ROOT}[{names}]"],
        "tests": [env / "bin/python", "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *warned, *tests],
        "demo": [env / "bin/palate", "demo", "--data", "synthetic-1000", "--out", place / "demo"],
    }
    states: list[str] = []
    for name, words in steps.items():
        if states and "failed" in states[0]:
            states.append("-")
            continue
        print(f"{place.name}: {name}", flush=True)
        begin = time.perf_counter()
        with open(place / f"{name}.log", "w", encoding="utf-8") as log:
            done = subprocess.run(list(map(str, words)), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
        states.append("failed " * bool(done.returncode) + f"{time.perf_counter() - begin:.0f} s")
    return states


def chosen(versions: str) -> str:
    """The constraints: those of the repository, the lowest that pyproject.toml allows, or PyTorch alone."""
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch = next(line for line in pinned.splitlines() if line.startswith("torch=="))
    if versions == "pinned":
        return pinned
    if versions == "newest":
        return "" if os.environ.get("TORCH_INDEX") else f"{torch}\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    bounds = dict(found.groups() for line in lines if (found := re.match(r"([\w.-]+)(?:\[\w+\])?[>=]=([\w.]+)", line)))
    bounds["torch"] = torch.removeprefix("torch==")
    return "".join(f"{name}=={bound}\n" for name, bound in bounds.items())


if __name__ == "__main__":
    main()
