"""Do the formulas of `palate scale plan` say what measured runs took?

    python benchmarks/plan.py

Beside each figure that `benchmarks/large.py` (memory while a model is fitted) and `benchmarks/processes.py` (bytes of a
step between two hosts) wrote into their tables stands what `palate.scale.plan` says for the same size. Bar: within
25 %.
"""

from __future__ import annotations

import re
from typing import Any

from common import RESULTS, write_result

from palate.config import Training
from palate.scale.plan import Machine, Size, plan

TRAIN_SHARE = 0.8
"""Of the rows, in the tables of large.md."""
SETTINGS: dict[str, Training] = {"mf": Training(batch_size=16_384, embeddings="rowwise"), "two-tower": Training()}


def cells(name: str) -> list[list[str]]:
    """The lines of a table of results."""
    file = RESULTS / f"{name}.md"
    lines = file.read_text().splitlines() if file.exists() else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]


def number(text: str) -> float:
    """Of a cell such as 1,000,000."""
    return float(re.sub(r"[^\d.]", "", text))


def memory() -> list[list[str]]:
    """Peak of a fit."""
    rows = []
    for interactions, shape, stage, _, peak, _ in cells("large"):
        model, _, step = stage.partition(": ")
        if step != "fit" or model not in ("ials", "two-tower", "mf"):
            continue
        users, items = (int(number(part)) for part in shape.split("x"))
        size = Size(users=users, items=items, rows=int(number(interactions) * TRAIN_SHARE))
        found = plan(size, model, training=SETTINGS.get(model))
        # One epoch without validation keeps no best weights.
        best = next((line.value for line in found.lines if line.what == "best weights so far"), 0.0)
        planned = (found["memory of a training process"] - best) / 1e9
        rows.append([f"fit of {model}, {interactions} rows", f"{planned:.2f} GB", f"{peak} GB", ratio(planned, peak)])
    return rows


def wire() -> list[list[str]]:
    """Bytes of a step between two hosts."""
    rows = []
    # MovieLens-100K, of whose interactions 80 % are trained on; almost all users and films are among them.
    size, settings = Size(users=943, items=1_650, rows=80_000), Training(batch_size=1024, embeddings="rowwise")
    for model, what, figure, _ in cells("processes_network"):
        if what.startswith("bytes a step"):
            planned, counted = plan(size, model, training=settings, machine=Machine(hosts=2)), figure.partition(";")[0]
            sent = planned["sent by a process in a step"]
            rows.append([f"step of {model}, two hosts", f"{sent:,.0f} bytes", f"{counted} bytes", ratio(sent, counted)])
    return rows


def ratio(planned: float, measured: Any) -> str:
    """Of a planned and a measured figure."""
    return f"{planned / number(str(measured)):.2f}"


def main() -> None:
    write_result(
        "plan",
        "The plan beside measured runs",
        ["Measured figures are those of large.md and processes_network.md. Bar: ratio between 0.75 and 1.25."],
        ["what", "planned", "measured", "planned / measured"],
        [*memory(), *wire()],
    )


if __name__ == "__main__":
    main()
