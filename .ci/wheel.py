"""`make wheel`: the built packages hold everything, and the wheel works in an empty environment outside the repository.

Builds the sdist, and the wheel from it; installs the wheel with the versions of constraints.txt; then `pip check`, the
demo, a run on a table, and a part of the tests with the installed palate. The environment is a fresh one each time: the
packages come from pip's cache.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from environments import ROOT, TESTS, copied_tests, environment, install, run

CONSTRAINTS = ROOT / "constraints.txt"
SELECTED = ("tests/test_examples.py", "tests/data/test_own_splits.py")
"""A part of the tests that reads, splits, trains, evaluates, saves and loads, in about 20 seconds."""
ROWS = [(f"u{u}", f"i{i}", 1 + (u * i) % 5) for u in range(40) for i in range(u % 3, 30, 2)]


def main() -> None:
    """Build, install and try."""
    begin = time.perf_counter()
    with TemporaryDirectory(prefix="palate-wheel-") as name:
        place = Path(name)
        builder = environment(sys.executable, place / "builder")
        build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
        install(builder, "build", *build["requires"])
        run(builder, "-m", "build", "--no-isolation", "--outdir", place / "dist", ROOT, folder=place)
        wheel = next((place / "dist").glob("*.whl"))
        check_content(wheel)
        interpreter = environment(sys.executable, place / "env")
        install(interpreter, "-c", CONSTRAINTS, wheel)
        try_out(interpreter, place)
        install(interpreter, "-c", CONSTRAINTS, *TESTS)
        tests = copied_tests(place / "outside")
        inside = "import palate, sys; sys.exit(not palate.__file__.startswith(sys.prefix))"
        run(interpreter, "-c", inside, folder=tests)
        run(interpreter, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SELECTED, folder=tests)
    print(f"the wheel works; this took {time.perf_counter() - begin:.0f} s")


def check_content(wheel: Path) -> None:
    """Every file of the package that git knows is in the wheel: modules, the page of the service, `py.typed`."""
    listed = subprocess.run(["git", "ls-files", "src/palate"], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = {line.removeprefix("src/") for line in listed.stdout.splitlines() if (ROOT / line).exists()}
    missing = wanted - set(zipfile.ZipFile(wheel).namelist())
    if missing or "palate/py.typed" not in wanted:
        sys.exit(f"{wheel.name} lacks {', '.join(sorted(missing)) or 'py.typed'}")
    print(f"{wheel.name} holds the {len(wanted)} files of the package")


def try_out(interpreter: Path, place: Path) -> None:
    """The installed command, without any extra: version, demo, and a run on a table from training to a list."""
    palate = interpreter.with_name("palate")
    run(interpreter, "-m", "pip", "check", folder=place)
    run(palate, "--version", folder=place)
    run(palate, "demo", "--data", "synthetic-1000", "--out", "demo", folder=place)
    with open(place / "rows.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "rating"), *ROWS])
    run(palate, "train", "mf", "rows.csv", "--out", "run", folder=place)
    run(palate, "evaluate", "run", folder=place)
    run(palate, "recommend", "run", "--user", "u1", "-k", "3", folder=place)


if __name__ == "__main__":
    main()
