"""The demo: gather MovieLens-100K, split, train NeuMF beside baselines, evaluate, show lists, leave a report.

The split is per-user, at random: a tenth of each one's ratings is test. A split by time, palate's headline, says little
here: the people of MovieLens-100K came, rated for an hour and left, so that nine in ten rows after any moment belong
to people whom nobody has seen before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from palate.data.dataset import Dataset
from palate.data.parts import Split
from palate.errors import SourceError
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.render import Block, Heading, Points, Text, write
from palate.evaluation.report import Report, content
from palate.evaluation.result import aligned, number
from palate.recommender import Recommender
from palate.training.progress import Progress

SPLIT = "per-user"
METRICS = ("rmse", "mae", "ndcg@10", "recall@10", "coverage@10")
NOTE = "Lower is better for rmse and mae, higher for the others; ± is half of the 95 % interval."
TITLE = "NeuMF beside its baselines"
MADE_UP = "synthetic"
"""What takes the place of a data set that cannot be fetched."""
SHOWN = 5
"""Films of a history and of a list that are printed."""


@dataclass(frozen=True)
class Entry:
    """One model of the demo; its settings were chosen on the valid part."""

    model: str
    config: dict[str, Any]
    training: dict[str, Any]


ENTRIES = {
    "popularity": Entry("popularity", {}, {}),
    "bias": Entry("bias", {}, {}),
    "mf (ratings)": Entry(
        "mf",
        {"loss": "mse", "init": 0.02, "reg": 1.2, "bias_reg": 0.5, "reg_power": 0.5},
        {"epochs": 60, "lr": 0.1, "optimizer": "adagrad", "embeddings": "rowwise"},
    ),
    "mf (lists)": Entry("mf", {}, {}),
    "neumf": Entry("neumf", {}, {}),
}
"""NeuMF's default loss serves both ends at once; matrix factorization takes a model for each."""


@dataclass(frozen=True)
class Person:
    """Somebody, what they had and what they are told to try.

    Attributes:
        name: Who it is.
        route: How the list was made.
        history: Titles, most liked first.
        found: Titles of the list, best first, and whether it is among the person's held-out ones.
    """

    name: str
    route: str
    history: list[str]
    found: list[tuple[str, bool]]


def run(out: Path, name: str = "movielens-100k", seed: int = 0) -> None:
    """Run the demo and print what it finds.

    Args:
        out: Folder for the artifact, the report and its pictures.
        name: A data set of `palate.data.sources`; without a network the synthetic one takes its place.
        seed: Decides the split, the training and who is shown.
    """
    begin = time.perf_counter()
    data = gather(name)
    parts = data.split(SPLIT, valid=0.1, test=0.1, seed=seed)
    for note in (*data.notes, *parts.notes):
        print(f"  {note}")
    recommenders, evaluations = _train(parts, seed)
    rec = recommenders["neumf"]
    report = Report(
        title=TITLE,
        evaluations=evaluations,
        records={model: r.records for model, r in recommenders.items() if r.records},
        metric="ndcg@10",
        baseline="neumf",
        notes=(*data.notes, *parts.notes),
    )
    people = _people(rec, parts, seed)
    print("\nOn the test part, which nothing was chosen on:\n")
    print("\n".join(results(evaluations, METRICS, NOTE)))
    print("\n" + "\n".join(verdicts := _verdicts(evaluations)))
    print("\n" + "\n".join(line for person in people for line in _lines(person)))
    rec.save(out, {"valid": parts.valid, "test": parts.test})
    _write(out, report, verdicts[-1], people)
    print(f"In {out}: the recommender, report.html, report.md and learning.png (the chosen epoch is marked).")
    print(f"Next: palate recommend {out} --user {rec.data.users.ids[0]}")
    print(f"The demo took {time.perf_counter() - begin:.0f} s.")


def gather(name: str) -> Dataset:
    """A data set by name; without a network the synthetic one, and a word about it."""
    print(f"Gathering {name}")
    try:
        return Dataset.load(name)
    except SourceError as error:
        print(f"  {error}")
        print("  NO NETWORK: the demo goes on with made-up people and films (the built-in synthetic data set).")
        return Dataset.load(MADE_UP)


def trained(name: str, entry: Entry, parts: Split, seed: int) -> tuple[Recommender, float]:
    """One of a demo's models, trained with a progress bar, and the seconds that took."""
    start = time.perf_counter()
    with Progress() as progress:
        found = Recommender.train(
            parts.train,
            entry.model,
            entry.config,
            entry.training,
            parts.valid,
            seed,
            on_epoch=progress.on_epoch,
            on_step=progress.on_step,
        )
    seconds = time.perf_counter() - start
    print(f"{name}: trained in {seconds:.1f} s")
    return found, seconds


def _train(parts: Split, seed: int) -> tuple[dict[str, Recommender], dict[str, Evaluation]]:
    recommenders, evaluations = {}, {}
    protocol = Protocol(split=SPLIT, split_options=(("valid", 0.1), ("test", 0.1), ("seed", seed)), metrics=METRICS)
    for name, entry in ENTRIES.items():
        rec, seconds = trained(name, entry, parts, seed)
        recommenders[name] = rec
        evaluations[name] = evaluate(rec.model, parts.test, protocol=protocol, name=name, fit_seconds=seconds)
    return recommenders, evaluations


def results(evaluations: dict[str, Evaluation], metrics: Sequence[str], note: str) -> list[str]:
    """Lines of a table, a row for each model, and a note."""
    rows = [[name, *(_cell(evaluation, metric) for metric in metrics)] for name, evaluation in evaluations.items()]
    return [*aligned(["model", *metrics], rows), "", note]


def _cell(evaluation: Evaluation, metric: str) -> str:
    found = evaluation.estimates.get(metric)
    return "-" if found is None else f"{number(found.value)} ±{(found.high - found.low) / 2:.4f}"


def _verdicts(evaluations: dict[str, Evaluation]) -> list[str]:
    """NeuMF against every baseline, on ratings and on lists, and what that means."""
    lines, lost = [], []
    for metric in ("rmse", "ndcg@10"):
        measured = {name: e for name, e in evaluations.items() if metric in e.values}
        found = compare(measured, metric, baseline="neumf").differences
        lines += [d.verdict for d in found]
        lost += [d.first for d in found if d.verdict.startswith(f"{d.first} beats")]
    if lost:
        lines.append(
            f"So here NeuMF is not the model to use for everything: {', '.join(dict.fromkeys(lost))} did better."
        )
    else:
        lines.append("So here no baseline did better than NeuMF; on other data one may.")
    return lines


def _people(rec: Recommender, parts: Split, seed: int) -> list[Person]:
    """Two known people, and one of whom only a history is given."""
    train, rng = parts.train, np.random.default_rng(seed)
    enough = np.flatnonzero(np.diff(train.offsets) >= 2 * SHOWN)
    people = []
    for place, user in enumerate(rng.choice(enough, 3, replace=False).tolist()):
        liked = _liked(train, user)
        if place < 2:
            name, found = f"Person {train.users.ids[user]}", rec.recommend(train.users.ids[[user]], k=SHOWN)
            later = parts.test.item[parts.test.user == user]
        else:
            name, found = (
                "Somebody unknown, of whom only these are given",
                rec.recommend(history=train.items.ids[liked], k=SHOWN),
            )
            later = liked[:0]
        hits = found["item_id"].is_in(parts.test.items.ids[later].implode()).to_list()
        titles = train.titles(train.items.index(found["item_id"]))
        route = found["route"][0] if found.height else "none, as everything was seen"
        people.append(Person(name, route, train.titles(liked), list(zip(titles, hits, strict=True))))
    return people


def _liked(train: Dataset, user: int) -> np.ndarray:
    rows = np.arange(train.offsets[user], train.offsets[user + 1])
    if train.rating is not None:
        rows = rows[np.argsort(-train.rating[rows], kind="stable")]
    return train.item[rows[:SHOWN]]


def _lines(person: Person) -> Iterator[str]:
    width = max(len(title) for title in ["liked most", *person.history])
    yield f"{person.name}; route {person.route}"
    yield f"  {'liked most':{width}}  is told to try"
    for place in range(max(len(person.history), len(person.found))):
        had = person.history[place] if place < len(person.history) else ""
        title, hit = person.found[place] if place < len(person.found) else ("", False)
        yield f"  {had:{width}}  {title}{'  (held out, and indeed rated)' if hit else ''}".rstrip()
    yield ""


def _write(out: Path, report: Report, verdict: str, people: list[Person]) -> None:
    pictures = find_spec("matplotlib") is not None
    if not pictures:
        print("Without matplotlib there are no pictures; pip install 'palate[plots]' brings them.")
    blocks: list[Block] = [*content(report, pictures), Heading("In a word"), Text(verdict), Heading("Three people")]
    for person in people:
        blocks.append(Text(f"{person.name}; route {person.route}. Liked most: {'; '.join(person.history)}. To try:"))
        blocks.append(Points([title + " (held out, and indeed rated)" * hit for title, hit in person.found]))
    write(out, "report", report.title, blocks)
