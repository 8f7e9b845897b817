"""New users: what lists are worth to people of whom 0, 1, 3 or 10 likes are known, and to the same people in training.

    python benchmarks/cold_users.py [--models ials ...] [--seeds 0 1 2] [--keep FOLDER] [--threads 1]

MovieLens-1M, ratings of 4 or 5 as likes. A fifth of the people is out of train, half of them for valid, half for test.
What is to be found of each is a fifth of their likes after their first ten, at random. Every step looks for the same
films of the same people, among the same films: those that training knows, without all other likes of the person.

    0, 1, 3, 10   the model is asked with the person's first likes, which training did not see; with what the person
                  said of age, gender and occupation too, where the model reads such
    all           likewise with all likes but those to be found
    known, 10     the model was trained with the first ten likes of these people as well, and knows them
    known, all    the model was trained with all of their likes but those to be found

Where a model has no answer of its own it gives popularity within what the person said. Every model may try two or three
settings, judged on the first seed's valid people with ten likes shown; the best is fitted for each seed, its epochs
chosen on that seed's own, and judged on test once. `known` has the same settings and as many epochs. With a folder to
keep them in, runs that are done are not done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import Kept, arguments, asked, real_data, student, write_result
from item_tables import WORDS, ml_1m

from palate.config import Training
from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.data.splits.build import NOWHERE, TEST, TEST_HISTORY, TRAIN, VALID, VALID_HISTORY, Split, build_split
from palate.data.splits.cold_start import random_places
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation, Validator, evaluate
from palate.models import MODELS
from palate.models.autoencoders.multvae import MultVAEConfig
from palate.models.baselines.popularity import PopularityConfig
from palate.models.content.two_tower import TwoTowerConfig
from palate.models.hybrid.blend import Member
from palate.models.hybrid.hybrid import HybridConfig
from palate.models.linear.ease import EASEConfig
from palate.models.mf.ials import IALSConfig
from palate.models.mf.mf import MFConfig

Choice = tuple[Any, Training]
PLAIN = Training()
ROWS = Training(epochs=40, batch_size=256, lr=1e-3, patience=4)
PAIRS = Training(epochs=30, batch_size=8192, lr=3e-3, patience=3)
SHOWN = 10
STEPS = ("0", "1", "3", "10", "all")
KNOWN = ("known, 10", "known, all")
METRIC = "ndcg@10"
PEOPLE = ("gender", "age", "occupation")
GLOBAL = "popularity"


def tempered(prior: float) -> HybridConfig:
    """iALS, for new people the more mixed with what is expected of them, the fewer likes they have."""
    ials = {"dim": 64, "alpha": 0.4, "reg": 0.01}
    warm, content = (Member(model=model, config=ials) for model in ("ials", "content-ials"))
    return HybridConfig(warm=warm, content=content, held_out=0.0, prior=prior)


CHOICES: dict[str, list[Choice]] = {
    GLOBAL: [(PopularityConfig(), PLAIN)],
    "ease": [(EASEConfig(reg=reg), PLAIN) for reg in (150.0, 300.0, 600.0)],
    "ials": [(IALSConfig(dim=64, alpha=a, reg=r), PLAIN) for a, r in ((0.65, 0.27), (1.3, 0.48), (2.6, 0.9))],
    "multvae": [(MultVAEConfig(beta=b), ROWS) for b in (0.2, 0.5)],
    "mf": [(MFConfig(dim=64, negatives=4, reg=r), PAIRS) for r in (0.003, 0.01)],
    "hybrid": [(tempered(prior), PLAIN) for prior in (10.0, 20.0, 30.0)],
    "two-tower": [
        (TwoTowerConfig(text="bag", columns=("genres", "year"), id_dropout=d), replace(ROWS, lr=2e-3))
        for d in (0.3, 0.6)
    ],
}
"""Settings that each model may try."""
GRADIENT = ("multvae", "mf", "two-tower")


def likes() -> Dataset:
    """Films rated 4 or 5, in the order of time, and what is known of films and people."""
    _, films, kinds = ml_1m()
    people = pl.read_parquet(real_data("ml-1m") / "users.parquet")
    rows = pl.read_parquet(real_data("ml-1m") / "ratings.parquet").filter(pl.col("rating") >= 4)
    return Dataset.read(
        rows.sort("user_id", "timestamp", "seq", nulls_last=True).select("user_id", "item_id", "timestamp"),
        items=films.select("item_id", *WORDS),
        users=people.select("user_id", pl.col(PEOPLE).cast(pl.String)),
        item_kinds={name: kind for name, kind in kinds.items() if name in WORDS},
        user_kinds=dict.fromkeys(PEOPLE, "category"),
    )


class People:
    """Who is new and what is to be found of them; the same for every step of a seed.

    Args:
        data: All likes.
        seed: Decides both.
    """

    def __init__(self, data: Dataset, seed: int) -> None:
        rng = np.random.default_rng(seed)
        counts = np.diff(data.offsets)
        able = rng.permutation(np.flatnonzero(counts > SHOWN))
        tenth = round(0.1 * data.n_users)
        group = np.zeros(data.n_users, dtype=np.int8)
        group[able[:tenth]], group[able[tenth : 2 * tenth]] = TEST, VALID
        self.data, self.group = data, group[data.user]
        self.place = np.arange(len(data)) - data.offsets[data.user]
        later = self.place >= SHOWN
        chance = np.full(len(data), len(data))
        chance[later] = random_places(data.user[later], rng)
        target = chance < np.ceil((counts - SHOWN) / 5)[data.user]
        # A film that nobody in train likes can be found by no model; it is left out everywhere.
        there = np.bincount(data.item[self.group == TRAIN], minlength=data.n_items) > 0
        self.target = (self.group > 0) & target & there[data.item]
        self.never = (self.group > 0) & ~there[data.item]

    def step(self, shown: str) -> Split:
        """New people with so many of their likes."""
        first = self.place < (len(self.data) if shown == "all" else int(shown))
        history = np.where(self.group == TEST, TEST_HISTORY, VALID_HISTORY)
        part = np.where(self.target, self.group, np.where(first, history, NOWHERE))
        part = np.where(self.group == TRAIN, TRAIN, np.where(self.never, NOWHERE, part)).astype(np.int8)
        return build_split(self.data, part, valid=0.1, advice="", held_out=True)

    def known(self, shown: str) -> Split:
        """The people of test in train, with so many of their likes; those of valid are nowhere."""
        first = self.place < (len(self.data) if shown == "all" else int(shown))
        part = np.where(self.target, TEST, np.where(first & ~self.never, TRAIN, NOWHERE))
        part = np.where(self.group == VALID, NOWHERE, np.where(self.group == TRAIN, TRAIN, part)).astype(np.int8)
        return build_split(self.data, part, valid=0.0, advice="")

    def candidates(self, part: Dataset) -> Ragged:
        """What competes: train's films without the other likes of the person, one row for each user of `part`."""
        others = (self.group > 0) & ~self.target & ~self.never
        user = part.users.index(self.data.users.ids[self.data.user[others]].rename("user_id"))
        item = part.items.index(self.data.items.ids[self.data.item[others]].rename("item_id"))
        asked = np.flatnonzero(np.diff(part.offsets))
        free = np.zeros((part.n_users, part.n_items), dtype=bool)
        free[asked] = True
        both = (user >= 0) & (item >= 0)
        free[user[both], item[both]] = False
        row, film = free.nonzero()
        lengths = torch.from_numpy(np.bincount(row, minlength=part.n_users))
        return Ragged.from_lengths(torch.from_numpy(film), lengths)


class Work:
    """Runs of one seed, kept in a folder.

    Args:
        data: All likes.
        seed: Decides who is new.
        keep: Folder.
    """

    def __init__(self, data: Dataset, seed: int, keep: Path) -> None:
        self.seed, self.people = seed, People(data, seed)
        self.steps = {shown: self.people.step(shown) for shown in STEPS}
        self.kept = Kept(keep / str(seed))

    def run(self, name: str, number: int, choice: Choice, test: bool) -> tuple[float, dict[str, Evaluation]]:
        """The metric on valid with ten likes shown and, if asked for, the evaluations on test, of one setting."""
        found = self.kept.get(
            f"{name}-{number}", test, lambda: self._fit(name, choice),
            lambda model, kept: self._test(model, name, choice, kept["epochs"]),
        )  # fmt: skip
        return found["valid"], {step: Evaluation.from_dict(each) for step, each in found["test"].items()}

    def _fit(self, name: str, choice: Choice) -> tuple[dict[str, Any], Any]:
        """What valid says, and the model."""
        ten = self.steps[str(SHOWN)]
        model = self._model(name, choice, ten.train)
        watch = Validator(ten.valid, model, METRIC)
        records = model.fit(ten.train, replace(choice[1], seed=self.seed), watch if name in GRADIENT else None)
        best = [record.epoch for record in records if record.best]
        return {"valid": watch(model)[METRIC], "epochs": best[-1] if best else 1, "test": {}}, model

    def _test(self, model: Any, name: str, choice: Choice, epochs: int) -> dict[str, Any]:
        """The evaluations at all steps, and of models that know the people."""
        found = {shown: self._judge(model, name, parts.test) for shown, parts in self.steps.items()}
        for level in KNOWN:
            parts = self.people.known(level.removeprefix("known, "))
            model = self._model(name, choice, parts.train)
            model.fit(parts.train, replace(choice[1], seed=self.seed, epochs=epochs))
            found[level] = self._judge(model, name, parts.test)
        told = {step: round(each["slices"]["all"]["estimates"][METRIC]["value"], 4) for step, each in found.items()}
        print(f"{self.seed} {name}: {told}", flush=True)
        return found

    def _model(self, name: str, choice: Choice, train: Dataset) -> Any:
        kind = MODELS[name]
        return kind(choice[0], kind.spec_of(train))

    def _judge(self, model: Any, name: str, part: Dataset) -> dict[str, Any]:
        found = evaluate(model, part, (METRIC,), candidates=self.people.candidates(part), name=name)
        # Steps differ in what was known before; what is looked for, and among what, is one thing.
        return replace(found, protocol=replace(found.protocol, data="", given="")).to_dict()


def main() -> None:
    """Print the table and write it down."""
    given = asked(arguments(__doc__, CHOICES))
    data = likes()
    works = [Work(data, seed, given.keep) for seed in given.seeds]
    found: dict[str, list[dict[str, Evaluation]]] = {}
    chosen = []
    for name in given.models or CHOICES:
        valid = [works[0].run(name, number, choice, test=False)[0] for number, choice in enumerate(CHOICES[name])]
        best = int(np.argmax(valid))
        found[name] = [work.run(name, best, CHOICES[name][best], test=True)[1] for work in works]
        chosen.append(f"{name}: {len(valid)} tried, {METRIC} on valid {max(valid):.4f}; {CHOICES[name][best][0]}")
    first = found[next(iter(found))][0]["0"]
    about = [
        f"Data: MovieLens-1M, ratings of 4 or 5; {METRIC}; seeds {given.seeds}; {len(first.users):,} people of test.",
        f"Intervals: 95 %, Student's t over {len(works)} seeds.",
        *DEFINITIONS,
        *chosen,
        *told(found),
    ]
    rows = [
        [name, *(student([value(run, step) for run in runs]) for step in (*STEPS, *KNOWN))]
        + [student([value(run, str(SHOWN)) / value(run, level) for run in runs]) for level in KNOWN]
        for name, runs in found.items()
    ]
    header = ["model", *STEPS, *KNOWN, *(f"10 / {level}" for level in KNOWN)]
    write_result("cold_users", "New users, MovieLens-1M", about, header, rows)


DEFINITIONS = (
    "To be found: of each person of test a fifth of the likes after the first ten, at random; the same in all columns, "
    "among the same films: all that train holds, without the person's other likes.",
    "0, 1, 3, 10, all: likes of a new person that the model is shown when asked. Known, 10: the first ten likes were "
    "in train. Known, all: all likes but those to be found were in train: of half of the people more than forty.",
    "Settings and epochs were chosen on valid with all films competing, also those of the person's other likes.",
    "hybrid: its first form mixed in popularity alone and was judged on test under seeds 0 to 2. What likes say was "
    "then added, its constants chosen on valid people of these seeds.",
)


def value(run: Mapping[str, Evaluation], step: str) -> float:
    """The metric at a step."""
    return run[step].slices["all"].estimates[METRIC].value


def told(found: Mapping[str, Sequence[Mapping[str, Evaluation]]]) -> list[str]:
    """In words: whether each step helps and, with nothing shown, how models stand to global popularity."""
    lines = ["Step by step, first seed, by users:"]
    for name, runs in found.items():
        if name == GLOBAL:
            continue
        for before, after in (("0", "1"), ("1", "3"), ("3", "10")):
            pair = {f"{after} shown": runs[0][after], f"{before} shown": runs[0][before]}
            more = student([value(run, after) - value(run, before) for run in runs])
            lines.append(f"{name}: {more}; {compare(pair, METRIC).differences[0].verdict}")
    if GLOBAL in found and len(found) > 1:
        lines.append("Nothing shown, first seed, by users, Holm-corrected:")
        zero = compare({name: runs[0]["0"] for name, runs in found.items()}, METRIC, GLOBAL).differences
        lines += [difference.verdict for difference in zero]
    return lines


if __name__ == "__main__":
    main()
