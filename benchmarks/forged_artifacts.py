"""Forge artifacts of all models at random, load them and ask them; only clear errors or answers may come.

    python benchmarks/forged_artifacts.py [--count 50000] [--seed 2]

`tests/forging.py` makes the changes; `tests/test_forged_artifacts.py` runs 2,000 of them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from common import ROOT, write_result

sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "models")]

from test_contract import CASES

from forging import Trial, make_artifacts, trials


def main() -> None:
    """Run all trials and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = make_artifacts(Path(folder), CASES)
        found, start = [], time.monotonic()
        for trial in trials(Path(folder), given.seed, given.count):
            found.append(trial)
            if not trial.sound:
                print("FAULT", trial, flush=True)
            if len(found) % 1000 == 0:
                print(f"{len(found):,} of {given.count:,}, {time.monotonic() - start:.0f} s", flush=True)
    faults = [trial for trial in found if not trial.sound]
    write_result(
        "forged_artifacts",
        "Forged artifacts",
        [
            f"{len(found):,} forged folders of {len(models)} models and variants, seed {given.seed}; nine of ten with "
            "hashes that fit.",
            "Refused: `ArtifactError` at loading. Answered: six questions (lists, similar items, predictions, "
            "evaluation), all answered or refused by a clear error.",
            f"Faults (another exception, a signal, more than 5 s of processor time): {len(faults)}.",
        ],
        ["changed", "trials", "refused", "answered", "faults", "slowest, s"],
        [row(kind, some) for kind, some in grouped(found)],
    )


def grouped(found: list[Trial]) -> list[tuple[str, list[Trial]]]:
    """Trials by the kind of their first change, and all."""
    kinds = defaultdict(list)
    for trial in found:
        first = trial.change.split("; ")[0]
        kinds[re.sub(r" (of|in|at|for) .*|:.*", "", first) or "none"].append(trial)
    largest = sorted(kinds.items(), key=lambda entry: -len(entry[1]))
    return [*largest, ("all", found)]


def row(kind: str, some: list[Trial]) -> list[str]:
    """A line of the table."""
    outcomes = Counter(trial.outcome if trial.sound else "fault" for trial in some)
    answered = outcomes["answered"] + outcomes["refused later"]
    counts = (len(some), outcomes["refused"], answered, outcomes["fault"])
    return [kind, *(f"{count:,}" for count in counts), f"{max(trial.seconds for trial in some):.2f}"]


if __name__ == "__main__":
    main()
