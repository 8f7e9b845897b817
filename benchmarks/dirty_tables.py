"""Random dirty tables through the reader and the command line: exit status 0 or 2, never 1, and no traceback.

    python benchmarks/dirty_tables.py [--count 5000] [--processes 50] [--seed 1]

`tests/dirty.py` makes the tables and runs the commands; `tests/data/test_dirty_tables.py` runs some of them. Some
commands run as processes of their own whose output holds ASCII only, the others in this process.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path

from common import ROOT, write_result

sys.path += [str(ROOT / "tests")]

from dirty import Dirt, Trial, as_process, attempt, command, dirty_table


def main() -> None:
    """Read all tables and write the table of outcomes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    kinds: dict[str, list[Trial]] = defaultdict(list)
    for number in range(given.count):
        with tempfile.TemporaryDirectory() as folder:
            trial = attempt(given.seed, number, Path(folder))
        kinds[trial.about.split(":")[0]].append(trial)
        if not trial.sound:
            print("FAULT", trial, flush=True)
        if (number + 1) % 500 == 0:
            print(f"{number + 1:,} of {given.count:,}", flush=True)
    wrong = processes(given.seed, given.processes)
    everything = [trial for some in kinds.values() for trial in some]
    faults = sum(not trial.sound for trial in everything)
    if given.count == parser.get_default("count"):
        write_result(
            "dirty_tables",
            "Dirty tables",
            [
                f"{len(everything):,} tables, seed {given.seed}; each is read in Python (`Dataset.read` or `inspect`) "
                "and by one command (`palate data inspect` or `palate train`), with random options.",
                f"Faults (an exception other than `PalateError`, an exit status other than 0 and 2, a traceback, "
                f"control characters in the output): {faults}.",
                f"As processes of their own with ASCII output: {given.processes} commands, {wrong} faults.",
            ],
            ["kind of file", "tables", "read", "refused", "exit 0", "exit 2", "faults", "slowest, CPU s"],
            [row(kind, some) for kind, some in [*sorted(kinds.items()), ("all", everything)]],
        )
    print(f"{len(everything):,} tables and {given.processes} processes, seed {given.seed}: {faults + wrong} faults")
    sys.exit(faults + wrong > 0)


def processes(seed: int, count: int) -> int:
    """Commands as processes of their own; the number of faults."""
    wrong = 0
    for number in range(count):
        rng = Dirt(f"process-{seed}-{number}")
        rng.level = random.Random(number).choice((0.03, 0.5, 1.0))
        with tempfile.TemporaryDirectory() as folder:
            path, about = dirty_table(rng, Path(folder))
            words = command(rng, path, Path(folder))
            code, says = as_process(words)
        if code not in (0, 2) or says:
            wrong += 1
            print("FAULT", about, words, code, says, flush=True)
    return wrong


def row(kind: str, some: list[Trial]) -> list[str]:
    """A line of the table."""
    read, codes = Counter(trial.read for trial in some), Counter(trial.code for trial in some)
    faults = sum(not trial.sound for trial in some)
    counts = (len(some), read["ok"], read["refused"], codes[0], codes[2], faults)
    return [kind, *(f"{count:,}" for count in counts), f"{max(trial.seconds for trial in some):.2f}"]


if __name__ == "__main__":
    main()
