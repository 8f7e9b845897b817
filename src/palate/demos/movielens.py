"""`palate demo`: load MovieLens-100K, split it, train NeuMF and baselines, evaluate, recommend, write a report.

NeuMF and matrix factorization are each trained twice: for ratings (squared error) and for lists (binary cross-entropy).

The split is random per user: a tenth of each user's ratings is test. A temporal split, the default of palate, says
little about this data set: its users rated for an hour each and left, so that nine in ten rows after any point in time
belong to users without any row before it.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.demos.shared import DemoModel, load_or_synthetic, note_missing_pictures, results_table, train
from palate.evaluation.compare import better_of, compare
from palate.evaluation.evaluate import Evaluation, evaluate
from palate.evaluation.protocol import Protocol
from palate.evaluation.render import Block, Heading, Points, Text, write
from palate.evaluation.report import Report, content
from palate.recommender.evaluation_file import write_summary
from palate.recommender.recommender import Recommender

SPLIT = "per-user"
METRICS = ("rmse", "mae", "ndcg@10", "recall@10", "coverage@10")
NOTE = "rmse, mae: lower is better; the others: higher is better. ± is half of the 95 % interval."
TITLE = "NeuMF and baselines on MovieLens"
SHOWN = 5
"""Films of a history and of a list that are printed."""
IN_TEST = "(in the test part)"

DEMO_MODELS = {
    "popularity": DemoModel("popularity", {}, {}),
    "bias": DemoModel("bias", {}, {}),
    "mf (ratings)": DemoModel(
        "mf",
        {"loss": "mse", "init": 0.02, "reg": 1.2, "bias_reg": 0.5, "reg_power": 0.5},
        {"epochs": 60, "lr": 0.1, "optimizer": "adagrad", "embeddings": "rowwise"},
    ),
    "mf (lists)": DemoModel("mf", {}, {}),
    "neumf (ratings)": DemoModel("neumf", {"loss": "mse"}, {}),
    "neumf (lists)": DemoModel("neumf", {}, {}),
}
JUDGED = {"rmse": ("neumf (ratings)", "bias"), "ndcg@10": ("neumf (lists)", "popularity")}
"""Metric -> the NeuMF that is trained for it, and the baseline that it must beat to be worth keeping."""


@dataclass(frozen=True)
class ExampleUser:
    """A user with a history and a list.

    Attributes:
        name: Who it is.
        route: How the list was made.
        history: Titles, best rated first.
        recommended: Titles of the list, best first, and whether each is in the user's test rows.
    """

    name: str
    route: str
    history: list[str]
    recommended: list[tuple[str, bool]]

    @property
    def heading(self) -> str:
        """Who it is and how the list was made."""
        return f"{self.name} (route: {self.route})"


def run(out: Path, name: str = "movielens-100k", seed: int = 0) -> None:
    """Run the demo and print its results.

    Args:
        out: Folder for the artifact, the report and its pictures.
        name: A data set of `palate.data.sources`; if it cannot be downloaded, the synthetic one is used.
        seed: Seed of the split, the training and the choice of the users shown.
    """
    begin = time.perf_counter()
    note_missing_pictures()
    data = load_or_synthetic(name)
    parts = data.split(SPLIT, valid=0.1, test=0.1, seed=seed)
    for note in (*data.notes, *parts.notes):
        print(f"  {note}")
    recommenders, evaluations = _train_and_evaluate(parts, seed)
    rec = recommenders["neumf (lists)"]
    report = Report(
        title=TITLE,
        evaluations=evaluations,
        records={model: r.records for model, r in recommenders.items() if r.records},
        metric="ndcg@10",
        baseline="neumf (lists)",
        notes=(*data.notes, *parts.notes),
    )
    users = _example_users(rec, parts, seed)
    print("\nResults on the test part, which no setting was chosen on:\n")
    print("\n".join(results_table(evaluations, METRICS, NOTE)))
    verdicts, summary = _comparison(evaluations)
    print("\n" + "\n".join([*verdicts, summary]))
    print("\n" + "\n".join(line for user in users for line in _lines(user)))
    rec.save(out, {"valid": parts.valid, "test": parts.test})
    write_summary(out, "neumf (lists)", evaluations)
    pictures = _write(out, report, summary, users)
    files = ["report.html", "report.md", *(["learning.png (loss by epoch)"] if pictures else [])]
    print(f"In {out}: the recommender, {', '.join(files)}.")
    program = "palate" if shutil.which("palate") else sys.argv[0]  # after `make demo` it lies in .venv/bin
    print(f"Next: {shlex.join([program, 'recommend', str(out), '--user', str(rec.data.users.ids[0])])}")
    print(f"The demo took {time.perf_counter() - begin:.0f} s.")


def _train_and_evaluate(parts: Split, seed: int) -> tuple[dict[str, Recommender], dict[str, Evaluation]]:
    recommenders, evaluations = {}, {}
    protocol = Protocol(split=SPLIT, split_options=(("valid", 0.1), ("test", 0.1), ("seed", seed)), metrics=METRICS)
    for name, model in DEMO_MODELS.items():
        rec, seconds = train(name, model, parts, seed)
        recommenders[name] = rec
        evaluations[name] = evaluate(rec.model, parts.test, protocol=protocol, name=name, fit_seconds=seconds)
    return recommenders, evaluations


def _comparison(evaluations: Mapping[str, Evaluation]) -> tuple[list[str], str]:
    """The NeuMF for ratings, and that for lists, compared with every other model: a line each, and a summary."""
    lines, parts, ends = [], [], []
    for metric, (neumf, baseline) in JUDGED.items():
        measured = {name: e for name, e in evaluations.items() if metric in e.values}
        differences = compare(measured, metric, baseline=neumf).differences
        lines += [d.verdict for d in differences]
        winner = {d.first: better_of(d, metric) for d in differences}
        better = [name for name, who in winner.items() if who == name]
        worse = [name for name, who in winner.items() if who == neumf]
        told = {f"better than {neumf}": ", ".join(better) or "none", "worse": ", ".join(worse) or "none"}
        parts.append(f"{metric}: " + "; ".join(f"significantly {what}: {names}" for what, names in told.items()))
        word = "better than" if baseline in worse else "worse than" if baseline in better else "no better than"
        ends.append(f"{neumf} is {word} {baseline} on {metric}")
    return lines, f"Summary by metric. {'. '.join(parts)}. So {', and '.join(ends)}."


def _example_users(rec: Recommender, parts: Split, seed: int) -> list[ExampleUser]:
    """Two known users, and a new one who is known only by a history."""
    data, rng = parts.train, np.random.default_rng(seed)
    enough = np.flatnonzero(np.diff(data.offsets) >= 2 * SHOWN)
    users = []
    for place, user in enumerate(rng.choice(enough, 3, replace=False).tolist()):
        liked = _best_rated(data, user)
        if place < 2:
            name, found = f"User {data.users.ids[user]}", rec.recommend(data.users.ids[[user]], k=SHOWN)
            test = parts.test.item[parts.test.user == user]
        else:
            name = "New user, known only by these items"
            found, test = rec.recommend(history=data.items.ids[liked], k=SHOWN), liked[:0]
        hits = found["item_id"].is_in(parts.test.items.ids[test].implode()).to_list()
        titles = data.titles(data.items.index(found["item_id"]))
        route = found["route"][0] if found.height else "none, because all items were seen"
        users.append(ExampleUser(name, route, data.titles(liked), list(zip(titles, hits, strict=True))))
    return users


def _best_rated(data: Dataset, user: int) -> np.ndarray:
    """The items of a user with the highest ratings."""
    rows = np.arange(data.offsets[user], data.offsets[user + 1])
    if data.rating is not None:
        rows = rows[np.argsort(-data.rating[rows], kind="stable")]
    return data.item[rows[:SHOWN]]


def _lines(user: ExampleUser) -> Iterator[str]:
    width = max(len(title) for title in ["liked", *user.history])
    yield user.heading
    yield f"  {'liked':{width}}  recommended"
    for place in range(max(len(user.history), len(user.recommended))):
        liked = user.history[place] if place < len(user.history) else ""
        title, hit = user.recommended[place] if place < len(user.recommended) else ("", False)
        yield f"  {liked:{width}}  {title}{f'  {IN_TEST}' if hit else ''}".rstrip()
    yield ""


def _write(out: Path, report: Report, summary: str, users: list[ExampleUser]) -> bool:
    """Write the report; returns whether it has pictures."""
    pictures = find_spec("matplotlib") is not None
    blocks: list[Block] = [*content(report, pictures), Heading("Summary"), Text(summary), Heading("Three users")]
    for user in users:
        blocks.append(Text(f"{user.heading}. Liked: {'; '.join(user.history)}. Recommended:"))
        blocks.append(Points([f"{title} {IN_TEST}" if hit else title for title, hit in user.recommended]))
    write(out, "report", report.title, blocks)
    return pictures
