"""Candidates: what a table is for, lists or ratings, and the models that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from palate.automl.catalogue import BASELINE, BY_SQUARED_ERROR, CONTENT, LISTS, NEURAL, RATINGS, SEQUENCES, Kind, Size
from palate.data.dataset import Dataset
from palate.data.splits.build import Split
from palate.errors import ConfigError, PalateError
from palate.models import MODELS, GradientModel
from palate.models.layers import machine_memory
from palate.models.ncf.ncf import NCF
from palate.recommender.artifact import fresh_model
from palate.tune.spaces import SPACES

Task = Literal["lists", "ratings"]

OWN = Kind(NEURAL, lambda size: 1e-4 * size.rows)
"""A model that a user has added to `MODELS`, of which nothing is known."""
MOSTLY_RATED = 0.5
"""Share of the catalogue that a typical user has rated, from which on lists have little left to recommend."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model with the settings it is tried with.

    Attributes:
        model: Name in `MODELS`.
        number: 0 for the model as it comes, else the number of its sampled settings.
        config: Settings of the model other than its defaults.
        training: Fields of `Training` other than the defaults.
        tier: Place in `palate.automl.catalogue.TIERS`: lower is simpler.
        seconds: Estimated time.
        epochs: Most epochs, for models whose training can pause after one and go on; else 0.
    """

    model: str
    number: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    tier: int
    seconds: float
    epochs: int = 0

    @property
    def id(self) -> str:
        """Name of its files."""
        return f"{self.model}-{self.number}" if self.number else self.model

    @property
    def label(self) -> str:
        """Name in tables."""
        return f"{self.model}, settings {self.number}" if self.number else self.model


def choose_task(parts: Split) -> tuple[Task, str]:
    """Choose what to recommend by, and say why.

    Lists are what `recommend` gives, so they are the choice for almost every table. Ratings are the choice where users
    have rated most of what there is: a list of the rest says little then.

    Args:
        parts: The data set, split.
    """
    rating = parts.train.rating
    if rating is None:
        return "lists", "the table has no ratings"
    if len(np.unique(rating)) == 1:
        return "lists", "all ratings are equal"
    counts = np.bincount(np.concatenate([part.user for part in (parts.train, parts.valid, parts.test)]))
    share = float(np.median(counts[counts > 0])) / parts.test.n_items
    if share >= MOSTLY_RATED:
        return "ratings", f"a typical user has rated {share:.0%} of the items, so there is little left to list"
    return "lists", f"a typical user has rated {share:.1%} of the items, and the others can be recommended"


def check_task(task: Task, data: Dataset) -> None:
    """Refuse ratings as the task for data without them.

    Raises:
        ConfigError: The data has no ratings, or only equal ones.
    """
    if task != "ratings":
        return
    if data.rating is None:
        raise ConfigError('task="ratings" needs ratings, and this table has none; leave it out for lists')
    if len(np.unique(data.rating)) == 1:
        raise ConfigError('task="ratings": all ratings of this table are equal; leave it out for lists')


def find_candidates(
    train: Dataset, task: Task, budget: float, names: Sequence[str] | None = None
) -> tuple[list[Candidate], dict[str, str]]:
    """The models that fit the data, in order of cost, and why others are left out.

    Args:
        train: The training part.
        task: What they are for.
        budget: Seconds; models that would take longer are left out.
        names: Only these models, and the baselines. Defaults to all that fit.

    Raises:
        ConfigError: A name is not a model that fits the task and the data, or no baseline does.
    """
    kinds, size = _kinds(train, task, names), Size.of(train)
    found: list[Candidate] = []
    left_out: dict[str, str] = {}
    unfit: set[str] = set()
    for name, kind in kinds.items():
        seconds = kind.seconds(size)
        try:
            config = _config(name, task, train)
            built = fresh_model(name, config, train)[1]
            train.require(
                built.needs, type(built).__name__, built.remedy, built.uses_weights, "history" in built.answers
            )
        except PalateError as error:
            left_out[name] = str(error)
            unfit.add(name)
            continue
        if kind.tier != BASELINE and seconds > budget:
            left_out[name] = f"it would take about {in_words(seconds)}, longer than the budget"
        elif kind.bytes(size) > machine_memory():
            left_out[name] = f"it would need about {kind.bytes(size) / 1e9:.0f} GB of memory"
        else:
            epochs = built.default_training.epochs or 0 if _pauses(built) else 0
            found.append(Candidate(model=name, config=config, tier=kind.tier, seconds=seconds, epochs=epochs))
    if not any(candidate.tier == BASELINE for candidate in found):
        raise ConfigError.faults("no baseline fits the data", [f"{name}: {why}" for name, why in left_out.items()])
    if misfits := [f"{name}: {why}" for name, why in left_out.items() if name in unfit and name in (names or ())]:
        raise ConfigError.faults("candidates that do not fit the data", misfits)
    return sorted(found, key=lambda each: (each.tier != BASELINE, each.seconds)), left_out


def space_of(candidate: Candidate) -> dict[str, Any]:
    """What can be sampled of a candidate: its search space without what is given or what it chooses by itself."""
    default = MODELS[candidate.model].Config()
    fixed = {*candidate.config, *(name for name, value in vars(default).items() if value is None)}
    return {name: kind for name, kind in SPACES.get(candidate.model, {}).items() if name not in fixed}


def sampled(candidate: Candidate, number: int, seed: int, seconds: float) -> Candidate:
    """The same model with settings drawn from its search space.

    Args:
        candidate: The model as it comes.
        number: Of the settings, from 1; the same number gives the same settings.
        seed: Seed of the search.
        seconds: Estimated time.
    """
    rng = np.random.default_rng([seed, number, *candidate.model.encode()])
    drawn = {name: kind.sample(rng) for name, kind in space_of(candidate).items()}
    prefix = "training."
    return Candidate(
        model=candidate.model,
        number=number,
        config={**candidate.config, **{name: v for name, v in drawn.items() if not name.startswith(prefix)}},
        training={name.removeprefix(prefix): v for name, v in drawn.items() if name.startswith(prefix)},
        tier=candidate.tier,
        seconds=seconds,
        epochs=candidate.epochs,
    )


def in_words(seconds: float) -> str:
    """A time in words: 40 seconds, 12 minutes, 3.5 hours."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{int(seconds < 10 * size)}f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.{int(seconds < 10)}f}".removesuffix(".0") + " seconds"


def _kinds(train: Dataset, task: Task, names: Sequence[str] | None) -> dict[str, Kind]:
    """The models to look at, by name."""
    fitting = _of_task(task, train)
    if names is None:
        return fitting
    lists = {**LISTS, **SEQUENCES, **CONTENT}
    own = {name for name in MODELS if name not in {**RATINGS, **lists, "blend": None}}
    known = {**(RATINGS if task == "ratings" else lists), **dict.fromkeys(own, OWN)}
    if faults := [_unknown(name, known, task) for name in names if name not in known]:
        raise ConfigError.faults("candidates", faults)
    baselines = {name: kind for name, kind in fitting.items() if kind.tier == BASELINE}
    return {**baselines, **{name: known[name] for name in names}}


def _unknown(name: str, known: Mapping[str, Kind], task: Task) -> str:
    if name == "blend":
        return "'blend' is made of the best candidates by itself; leave it out"
    if name in MODELS:
        return f"{name!r} is no candidate for {task}; choose from {', '.join(known)}"
    near = get_close_matches(name, known, n=1)
    return f"there is no model {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}")


def _of_task(task: Task, data: Dataset) -> dict[str, Kind]:
    """The models for a task that this data has something for."""
    features = data.provides & {"item_features", "user_features"}
    if task == "ratings":
        return {name: kind for name, kind in RATINGS.items() if features or name not in ("convmf", "deepfm")}
    found = {name: kind for name, kind in LISTS.items() if name != "recent-popularity" or data.timestamp is not None}
    if data.timestamp is not None or data.events.sessions:
        found |= SEQUENCES
    for name, kind in CONTENT.items() if features else ():
        if name == "deepfm" or MODELS[name].needs <= data.provides:
            found[name] = kind
    return found


def _config(name: str, task: Task, data: Dataset) -> dict[str, Any]:
    """Settings without which a model would not do the task, or not see what the data has."""
    if task == "ratings" and name in BY_SQUARED_ERROR:
        return {"loss": "mse"}
    return {"time": True} if name == "svdpp" and data.timestamp is not None else {}


def _pauses(model: Any) -> bool:
    """Whether the training of a model is one run of epochs, which can pause after each."""
    own = type(model)._fit is GradientModel._fit or isinstance(model, NCF)
    return isinstance(model, GradientModel) and own and not getattr(model.config, "pretrain_epochs", 0)
