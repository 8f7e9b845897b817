"""`palate scale plan`: what a run of a given size takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App

from palate.cli import Length, visible
from palate.config import Training
from palate.data.layout import read_manifest
from palate.data.reading.formats import is_store
from palate.data.reading.ingest import gigabytes_of
from palate.errors import ConfigError
from palate.models import MODELS
from palate.scale.plan import Machine, Plan, Size
from palate.scale.plan import plan as make_plan

scale = App(name="scale", help="Plan what data and models of a given size take.")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}
_EXPECTED = "expected a number such as 1e9, 100M or 2,000,000"
_NUMBER = re.compile(r"([\d.,_]+(?:e\+?\d+)?)([kmb]?)", re.IGNORECASE)
_MOST = 1e18


@scale.command
def plan(
    store: Path | None = None,
    *,
    model: str = "two-tower",
    users: str | None = None,
    items: str | None = None,
    rows: str | None = None,
    dim: int | None = None,
    hosts: int = 1,
    processes: int = 1,
    host_memory: str = "16GB",
    rows_per_second: float = Machine.rows_per_second,
    k: Annotated[int, Length] = 10,
    training: Training = Training(),  # noqa: B008
) -> None:
    """Show memory, bytes on the wire, disk and hours that a size of data and a model take, with the formulas.

    Nothing is trained. Counts may be written as 1e9, 100M or 2,000,000.

    Args:
        store: A data set that palate data ingest wrote, whose counts are taken. Defaults to the counts of the flags.
        model: Name of a model.
        users: Number of users.
        items: Number of items.
        rows: Number of interactions.
        dim: Width of the vectors. Defaults to the model's own.
        hosts: Number of machines.
        processes: Number of processes on each machine.
        host_memory: Memory of a machine, for example 16GB.
        rows_per_second: Interactions that one process trains on in a second; palate train shows it. The default is only
            an order of magnitude.
        k: Length of the lists.
        training: Settings of training: epochs, batch size, optimizer and embeddings change the figures.
    """
    if not (memory := gigabytes_of(host_memory)):
        raise ConfigError(f"--host-memory {host_memory}: expected a size such as 16GB or 600MB")
    machine = Machine(
        hosts=hosts, processes=processes, memory=1e9 * memory, rows_per_second=rows_per_second, list_length=k
    )
    size = _size(store, {"users": users, "items": items, "rows": rows})
    found = make_plan(size, model, _config(model, dim), training, machine)
    print(_shown(found))


def _size(store: Path | None, given: Mapping[str, str | None]) -> Size:
    """The size of the data, from its manifest or from flags, which replace its counts."""
    if store is not None and not is_store(store):
        raise ConfigError(
            f"{store} is no data set on disk; write one with palate data ingest, or give --users, --items and --rows"
        )
    counts: dict[str, Any] = {}
    faults = []
    for name, text in given.items():
        if text is None and store is None:
            faults.append(
                f"--{name} is missing; give a number such as 1e6, or a data set that palate data ingest wrote"
            )
        elif text is not None:
            if (number := _number(text)) is None:
                faults.append(f"--{name} {text}: {_EXPECTED}")
            else:
                counts[name] = int(number)
    if faults:
        raise ConfigError.faults("palate scale plan", faults)
    if store is None:
        return Size(**counts)
    about = read_manifest(store)
    columns = tuple(name for name in about["columns"] if name not in ("user", "item"))
    return Size(**{name: about[name] for name in given} | counts, columns=columns)


def _number(text: str) -> float | None:
    """A count as people write it, from 1; None if it is none."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    try:
        value = float(found[1].replace(",", "").replace("_", "")) * _UNITS[found[2].lower()]
    except ValueError:
        return None
    return value if 1 <= value < _MOST else None


def _config(model: str, dim: int | None) -> dict[str, Any]:
    if dim is None or model not in MODELS:
        return {}
    names = {field.name for field in fields(MODELS[model].Config)}
    if "dim" not in names:
        raise ConfigError(f"{model} has no --dim; leave it out")
    return {"dim": dim}


def _shown(found: Plan) -> str:
    width = max(len(line.what) for line in found.lines)
    rows = [f"{line.what:{width}}  {_amount(line.value, line.unit):>12}  {line.how}" for line in found.lines]
    return visible("\n".join([*rows, "", *found.advice]))


def _amount(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:,.2f} {unit}"
    for name, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.2f} {name}"
    return f"{value / 1e3:,.1f} kB"
