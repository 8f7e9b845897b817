"""What the benchmark scripts share: where real data is, how runs are kept, and how a result is written down."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from scipy.special import stdtrit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def real_data(name: str) -> Path:
    """The folder of a real data set; the script ends with a clear word where there is none."""
    folder = Path(os.environ.get("PALATE_TEST_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        sys.exit(f"{folder} is not there; set PALATE_TEST_DATA to the folder that holds {name}/")
    return folder


def peak_bytes() -> int:
    """The most memory that this process has taken (Linux). `ru_maxrss` of a child begins with what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def median_cell(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def arguments(about: str, models: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """A parser of what all scripts of runs over seeds take; `asked` reads it.

    Args:
        about: The script's docstring, whose first line is shown.
        models: Names to choose from; default: no such option.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    if models is not None:
        parser.add_argument("--models", nargs="+", choices=list(models), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--keep", type=Path, default=Path("runs") / Path(sys.argv[0]).stem, help="folder of runs")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def asked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What was given on the command line; torch then uses so many threads."""
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    return given


class Kept:
    """Runs, as JSON files in a folder: one that is done is not done again.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._models: dict[Path, Any] = {}

    def get(
        self, name: str, test: bool, fit: Callable[[], tuple[dict[str, Any], Any]], judge: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """A run: what `fit` tells of it and, if asked for, under `test` what `judge` tells.

        Args:
            name: Of the run.
            test: Whether it is judged.
            fit: Trains; gives what is to be kept, and the model.
            judge: Judges the model on test; takes it and what was kept.
        """
        file = self.folder / f"{name.replace(',', '').replace(' ', '-')}.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        if not found or (test and not found["test"]):
            if file not in self._models:
                found, self._models[file] = fit()
                print(f"{self.folder.name} {name}: {found}", flush=True)
            if test:
                found["test"] = judge(self._models[file], found)
            file.write_text(json.dumps(found))
        return found


def student(values: Sequence[float]) -> str:
    """Mean and 95 % interval by Student's t over folds or seeds."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return f"{mean:.4f}"
    half = float(stdtrit(count - 1, 0.975)) * statistics.stdev(values) / count**0.5
    return f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"


def write_result(
    name: str, title: str, about: Sequence[str], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table and keep it as `benchmarks/results/NAME.md`.

    Args:
        name: File name without ending.
        title: Heading.
        about: Lines that say data, protocol hash, seeds, and what chose epochs and settings.
        header: Column names.
        rows: One sequence of texts for each line.
    """
    command = "python " + " ".join([str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *sys.argv[1:]])
    lines = [
        f"# {title}",
        "",
        f"Command: `{command}`  ",
        f"Made {date.today()}, Python {platform.python_version()}, 2 cores.  ",
    ]
    lines += [f"{line}  " for line in about]
    lines += ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text)
