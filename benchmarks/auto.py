"""auto on one set: is what it chose at least as good as the best single model, and as equally long single searches?

    python benchmarks/auto.py ml-100k [--kind ratings] [--minutes 10] [--models ease ...] [--searches mf ials ...]

The sets are those of `shapes.py`, the protocols those of `defaults.py`. All see the same parts: what chooses
is valid, and test judges once.

* auto: `palate.auto`, within the minutes.
* as it comes: each model of `defaults.py`, no setting given. The best of them on test is taken, which is hard on auto.
* searches: each of `--searches` alone, by `palate.tune` for as many minutes; the best of its trials, judged on test.

Runs are kept in `--keep`: what is done is not done again. The row of the set is added to benchmarks/results/auto.md, or
replaced there. auto's report is in KEEP/KIND-SET/best.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from common import RESULTS, Kept, arguments, asked, write_result
from defaults import KINDS, MAX_ITEMS, MSE, fitted
from defaults import run as as_it_comes
from shapes import SHAPES

import palate
from palate.errors import DataError
from palate.evaluation.compare import better_of, compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocols import Prepared, prepare
from palate.tune import tune

SEARCHES = {
    "lists": ("mf", "ials", "multvae", "neumf", "itemknn"),
    "ratings": ("mf", "neumf", "bayes-mf", "svdpp", "i-autorec"),
}
"""Models that are searched alone."""
HEADER = [
    "set", "for", "metric", "auto chose", "auto", "best single as it comes", "auto against it", "searches alone",
    "median of searches", "auto against the median", "minutes",
]  # fmt: skip


def automatic(keep: Path, ready: Prepared, kind: str, minutes: float, seed: int) -> dict[str, Any]:
    """What auto chose, and its evaluation on test; from its folder if it is done."""
    file = keep / "auto.json"
    if not file.exists():
        found = palate.auto(
            ready.parts,
            keep / "best",
            minutes=minutes,
            task="ratings" if kind == "ratings" else "lists",
            seed=seed,
            protocol=ready.protocol,
            title=keep.name,
            on_news=lambda line: print(line, flush=True),
        )
        print(found, flush=True)
        winner = found.record["winner"]["label"]
        if not found.evaluations:
            sys.exit(f"{keep / 'best'} is there without {file}; delete the folder")
        kept = {"winner": winner, "spent": found.record["spent"], "test": found.evaluations[winner].to_dict()}
        file.write_text(json.dumps(kept))
    return dict(json.loads(file.read_text()))


def singles(keep: Path, ready: Prepared, kind: str, models: list[str], seed: int) -> dict[str, Evaluation]:
    """Each model as it comes, judged on test."""
    found = {}
    for name in models:
        if ready.parts.train.n_items > MAX_ITEMS.get(name, ready.parts.train.n_items):
            continue
        config = MSE.get(name) if kind == "ratings" else None
        try:
            found[name] = Evaluation.from_dict(as_it_comes(keep, ready, name, config, seed, 0)["test"])
        except DataError as error:
            print(f"{name}: {error}", flush=True)
    return found


def searched(keep: Path, ready: Prepared, kind: str, name: str, minutes: float, seed: int) -> dict[str, Any]:
    """A search of one model that takes as long as auto, and its best settings judged on test."""

    def fit() -> tuple[dict[str, Any], Any]:
        parts, trials, start = ready.parts, 0, time.monotonic()
        config = MSE.get(name) if kind == "ratings" else None
        longest = 0.0
        found = None
        while found is None or time.monotonic() - start + longest < 60 * minutes:
            trials += 1
            before = time.monotonic()
            found = tune(parts.train, parts.valid, name, trials, storage=keep / f"{name}.db", config=config, seed=seed)
            longest = max(longest, time.monotonic() - before)
        run, rec = fitted(ready, name, found.config, found.training, seed)
        return {**run, "trials": trials}, rec

    def judge(rec: Any, kept: dict[str, Any]) -> dict[str, Any]:
        found = evaluate(rec.model, ready.parts.test, protocol=ready.protocol, name=name, fit_seconds=kept["cpu"])
        return found.to_dict()

    return Kept(keep).get(f"{name}-search", True, fit, judge)


def row_of(given: Any) -> list[str]:
    """The line of a set."""
    protocol, metric, _, models = KINDS[given.kind]
    seed, keep = given.seeds[0], given.keep / f"{given.kind}-{given.set}"
    keep.mkdir(parents=True, exist_ok=True)
    ready = prepare(protocol, SHAPES[given.set].read(), seed=seed)
    ours = automatic(keep, ready, given.kind, given.minutes, seed)
    auto = Evaluation.from_dict(ours["test"])
    alone = singles(keep, ready, given.kind, given.models or list(models), seed)
    sign = 1 if given.kind == "lists" else -1
    best = max(alone, key=lambda name: sign * alone[name][metric].value)
    (difference,) = compare({"auto": auto, best: alone[best]}, metric).differences
    worse = better_of(difference, metric) == best
    names = SEARCHES[given.kind] if given.searches is None else given.searches
    runs = {name: searched(keep, ready, given.kind, name, given.minutes, seed) for name in names}
    values = {name: Evaluation.from_dict(run["test"])[metric].value for name, run in runs.items()}
    middle = statistics.median(values.values()) if values else float("nan")
    above = "" if not values else "above" if sign * (auto[metric].value - middle) > 0 else "NOT ABOVE"
    return [
        given.set,
        given.kind,
        metric,
        ours["winner"],
        str(auto[metric]),
        f"{best} {alone[best][metric]}",
        f"{'WORSE' if worse else 'not worse'}: {difference.value:+.4f} ({difference.low:+.4f}, {difference.high:+.4f})",
        ", ".join(f"{name} {values[name]:.4f} ({runs[name]['trials']} trials)" for name in values) or "-",
        f"{middle:.4f}" if values else "-",
        above or "-",
        f"{ours['spent'] / 60:.1f} of {given.minutes:g}",
    ]


def rows_before(given: Any) -> list[list[str]]:
    """The lines of other sets in the table that is there."""
    file = RESULTS / "auto.md"
    lines = file.read_text().splitlines() if file.exists() else []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells[2:] if row[:2] != [given.set, given.kind]]


def main() -> None:
    """Measure one set and add its line."""
    parser = arguments(__doc__)
    parser.add_argument("set", choices=list(SHAPES))
    parser.add_argument("--kind", choices=list(KINDS), default="lists")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--models", nargs="*", help="as they come; default: those of defaults.py")
    parser.add_argument("--searches", nargs="*", help="models searched alone, or none; default: five")
    given = asked(parser)
    if given.kind == "ratings" and not SHAPES[given.set].rated:
        sys.exit(f"{given.set} has no ratings")
    row = row_of(given)
    about = [
        "Each line is of one call of this script, `python benchmarks/auto.py SET`; the command above is the last one.",
        f"Protocols {', '.join(f'{kind}: {KINDS[kind][0]}' for kind in KINDS)}, seed {given.seeds[0]}; test metric "
        "with its 95 % interval over users.",
        "Best single as it comes: the best on test of the models of defaults.py. Against it: auto minus it, paired by "
        "users; worse if the sign-flip test is significant.",
        "Searches alone: as many minutes each, by palate.tune, settings chosen on valid.",
    ]
    write_result("auto", "auto beside single models", about, HEADER, sorted([*rows_before(given), row]))


if __name__ == "__main__":
    main()
