"""All models on extreme tables, more than forty: finite answers or one clear error.

    python benchmarks/extreme_tables.py [--models NAME ...] [--tables TEXT]

`tests/extremes.py` makes the tables; `tests/models/test_extreme_tables.py` runs some of them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import torch
from common import ROOT, write_result

sys.path += [str(ROOT / "tests")]

from extremes import VARIANTS, Outcome, attempt, tables
from palate.models import MODELS


def main() -> None:
    """Attempt all models on all tables and write the table of outcomes."""
    names = [*MODELS, *VARIANTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--tables", default="", help="only tables whose name contains this text")
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = {name: extreme for name, extreme in tables().items() if given.tables in name}
    found: dict[tuple[str, str], Outcome] = {}
    for table, extreme in made.items():
        for model in given.models:
            found[table, model] = outcome = attempt(model, extreme)
            if outcome.kind == "fault":
                print(f"FAULT {model} on {table!r}: {outcome.says}", flush=True)
        print(table, dict(Counter(found[table, model].kind for model in given.models)), flush=True)
    faults = sum(outcome.kind == "fault" for outcome in found.values())
    if given.models == names and not given.tables:
        write_result(
            "extreme_tables",
            "Models on extreme tables",
            [
                f"{len(names)} models and variants on {len(made)} tables of up to 20 users and 400 items, or 24 users "
                "and 18 items; trained for two epochs, asked for lists, histories, ratings and similar items.",
                "Finite: all scores are finite. Refused: one `PalateError` of under 600 characters. Fault: anything "
                "else, warnings included.",
                f"Faults: {faults} of {len(found)}.",
            ],
            ["table", "finite", "refused", "faults", "refused because"],
            [row(table, [found[table, model] for model in names]) for table in made],
        )
    sys.exit(faults > 0)


def row(table: str, outcomes: list[Outcome]) -> list[str]:
    """A line of the table, with the most frequent error."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    why = Counter(outcome.says.replace("|", "/")[:110] for outcome in outcomes if outcome.kind == "refused")
    said = "; ".join(f"{text} ({count})" for text, count in why.most_common(2))
    return [table, *(str(kinds[kind]) for kind in ("finite", "refused", "fault")), said]


if __name__ == "__main__":
    main()
