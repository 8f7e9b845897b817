"""What the benchmark scripts share: where real data is, and how a result is written down."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from scipy.special import stdtrit

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def real_data(name: str) -> Path:
    """The folder of a real data set; the script ends with a clear word where there is none."""
    folder = Path(os.environ.get("PALATE_TEST_DATA", ROOT.parent / "shared" / "data")) / name
    if not folder.is_dir():
        sys.exit(f"{folder} is not there; set PALATE_TEST_DATA to the folder that holds {name}/")
    return folder


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
