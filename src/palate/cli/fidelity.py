"""`palate fidelity`: which explainer is faithful to a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from palate.cli import Flat, suggested
from palate.cli.inputs import Reading, SideTables, dataset
from palate.data.splits.build import align
from palate.errors import ConfigError
from palate.evaluation.render import Block, Heading, Picture, Points, Table, Text, write
from palate.explanation.checks import Sanity, sanity
from palate.explanation.fidelity import fidelity as measure
from palate.explanation.fidelity_result import Fidelity
from palate.explanation.measures import MEASURES
from palate.explanation.pictures import fidelity_picture
from palate.extras import install_command
from palate.recommender.recommender import Recommender

CHECKED, REPEATED = 10, 50
"""Users of the sanity checks; users whose explanations are repeated with another seed."""


def fidelity(
    run: Path,
    data: str | None = None,
    *,
    method: list[str] | None = None,
    users: int = 200,
    samples: int = 200,
    percent: bool = True,
    out: Path | None = None,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Measure which explainer is faithful to a trained recommender: how lists change without what an explainer names.

    Args:
        run: Folder that palate train or Recommender.save wrote.
        data: Histories of other users, with the same item ids: a file, a data set's name, or a query. Defaults to the
            training data.
        method: An explainer; may be given several times. Defaults to all that fit the model.
        users: Number of users; the top item of each is explained.
        samples: Masks that shap and lime score for each explanation.
        percent: Also remove the history in ten steps, not only its first five items; this takes most of the time.
        out: Folder for the full tables in Markdown, and the curves.
        reading: How DATA is read.
        seed: Seed of users and masks.
    """
    if data is None and (flags := reading.given()):
        raise ConfigError(f"{', '.join(flags)} describe DATA; name it: {suggested('fidelity', run)} DATA")
    if out is not None and find_spec("matplotlib") is None:
        print(f"  the report will have no picture because matplotlib is not installed: {install_command('plots')}")
    recommender = Recommender.load(run)
    known = recommender.data
    if data is not None:
        known = replace(align(dataset(data, reading, SideTables()), known), history=None)
    found = measure(
        recommender.model, known, method, users=users, samples=samples, percent=percent, stable=min(users, REPEATED),
        seed=seed, name=recommender.name,
        on_method=lambda name, seconds: print(f"  {name}: {seconds:.1f} s"),
    )  # fmt: skip
    checks = sanity(recommender.model, known, method, users=min(users, CHECKED), samples=samples, seed=seed)
    print(f"\n{found}")
    for line in sanity_lines(checks):
        print(line)
    if out is not None:
        print(f"report: {save(found, checks, out)}")


def sanity_lines(checks: Mapping[str, Sanity]) -> list[str]:
    """The sanity checks in words: which explainer fails which check, and which pass."""
    failed = [f"sanity: {name} {fault}" for name, check in checks.items() for fault in check.faults]
    passed = [name for name, check in checks.items() if not check.faults]
    if not passed:
        return failed
    return [
        *failed,
        f"sanity: {', '.join(passed)} pass: they follow the model's weights and ignore what the model does not see",
    ]


def save(found: Fidelity, checks: Mapping[str, Sanity], out: Path) -> Path:
    """Write `fidelity.md` and, if matplotlib is installed, `fidelity.png`."""
    title = f"Fidelity of explanations of {found.model}"
    return write(out, "fidelity", title, list(_blocks(found, checks)), whole_page=False)


def _blocks(found: Fidelity, checks: Mapping[str, Sanity]) -> Iterator[Block]:
    yield Points([*found.verdict(), *sanity_lines(checks), *found.notes])
    yield Text(
        f"{len(found.users):,} users, the top item of each; the numbers in brackets are 95 % intervals over users."
    )
    header, rows = found.table()
    yield Table(header, rows)
    yield from _picture(found)
    yield Heading("Every measure")
    for name, what in MEASURES.items():
        measured = [m for m in found.measures if m.partition("@")[0] == name]
        if measured:
            yield Text(f"{name}: {what.help}; {what.better} is better.")
            yield Table(*_measure_table(found, measured))
    yield Heading("Compared with orders that do not depend on the model")
    yield Points([each.verdict for each in found.compare(found.headline)])
    yield Heading("Agreement of methods")
    yield Text("Spearman's correlation of two methods' values over a user's history, mean over users.")
    names = list(found.values)
    yield Table(["", *names], [[a, *(_agreement(found, a, b) for b in names)] for a in names])
    yield Heading("Sanity checks")
    yield Table(["method", "shuffled weights", "irrelevant items", "order kept", "two seeds"], [
        [name, *("-" if e is None else str(e) for e in (c.shuffled, c.irrelevant, c.kept, c.repeated))]
        for name, c in checks.items()
    ])  # fmt: skip


def _measure_table(found: Fidelity, measured: list[str]) -> tuple[list[str], list[list[str]]]:
    estimates = {method: found.estimates(method) for method in found.ranked()}
    return ["method", *measured], [[method, *(str(e[m]) for m in measured)] for method, e in estimates.items()]


def _picture(found: Fidelity) -> Iterator[Picture]:
    if not found.curves or find_spec("matplotlib") is None:
        return
    yield Picture("fidelity", "Deletion and insertion curves of each explainer", fidelity_picture(found))


def _agreement(found: Fidelity, one: str, other: str) -> str:
    if one == other:
        return "1"
    value = found.agreement.get((one, other), found.agreement.get((other, one), float("nan")))
    return f"{value:.2f}"
