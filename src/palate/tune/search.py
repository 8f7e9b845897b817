"""tune(): search over a model's settings; each trial is evaluated on `valid` only.

The trials lie in a SQLite file (`palate.tune.study`): several processes can work on one search at once, and a search
that was stopped continues; both find what an undisturbed search finds. A trial that fails is recorded, and the search
continues. A trial below the median of earlier trials after the same epoch is stopped early, but only after as many
epochs as early stopping waits for: models that learn slowly, or are annealed, are behind at first.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from palate.config import Training, from_dict, to_dict
from palate.data.dataset import Dataset
from palate.errors import ConfigError
from palate.evaluation.metrics import MetricLike, metric_names
from palate.evaluation.validate import Validator
from palate.models import MODELS
from palate.models.base import Model
from palate.recommender.artifact import fresh_model, uses_training
from palate.training.fbgemm import require_fbgemm
from palate.training.loop import Epoch
from palate.tune.locks import POLL, locked, write_whole
from palate.tune.spaces import SPACES, Choice, Range, Space
from palate.tune.study import Study, require_optuna


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of settings and its result.

    Attributes:
        number: From 0.
        state: complete, pruned (stopped early) or failed.
        value: The monitored metric on `valid`; None for trials that are not complete.
        settings: Fields of the model's config, and `training.` fields.
        seconds: Wall time.
        fault: Why it failed.
    """

    number: int
    state: str
    value: float | None
    settings: Mapping[str, Any]
    seconds: float
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result of a search.

    Attributes:
        model: Name in `MODELS`.
        metric: The metric that trials were compared by, on `valid`.
        value: The metric of the best trial; NaN if nothing was searched.
        config: The best trial's model settings, all fields.
        training: The best trial's `Training`.
        trials: All trials.
    """

    model: str
    metric: str
    value: float
    config: Any
    training: Training
    trials: tuple[Trial, ...]

    def save(self, path: str | Path) -> None:
        """Write the settings as JSON that `palate train MODEL --config` takes."""
        settings = to_dict(self.config)
        if uses_training(MODELS[self.model]):
            settings["training"] = to_dict(self.training)
        path = Path(path)
        with locked(path.parent, path.name):
            write_whole(path, json.dumps(settings, indent=1) + "\n")


def tune(
    train: Dataset,
    valid: Dataset,
    model: str,
    trials: int,
    *,
    storage: str | Path,
    config: Mapping[str, Any] | None = None,
    training: Training | None = None,
    metric: MetricLike | None = None,
    seed: int = 0,
    max_users: int | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Search the space of a model in `SPACES`.

    A search that is stopped and started again, or that several processes run at once, tries the same settings and has
    the same result as one that runs undisturbed. Each process returns when all trials are finished.

    Args:
        train, valid: Parts of one split.
        model: Name in `MODELS`.
        trials: Number of trials in all; those of earlier and of other processes count. If the file holds more, the
            first are the result.
        storage: SQLite file, created if it does not exist; searches of other models, data and settings may share it.
        config: Settings that are fixed instead of searched. Defaults to none.
        training: Training settings; `patience` and `epochs` limit each trial. Defaults to `Training()`.
        metric: Name or function (`palate.evaluation.metrics.metric_names`) of the metric that chooses settings and
            epochs. Defaults to `training.monitor`.
        seed: Seed of the search; a trial's settings also depend on trials before it. Models train with
            `training.seed`.
        max_users: Evaluate trials on a fixed sample of this many users of `valid`. Defaults to all.
        on_trial: Called after each trial that finishes meanwhile, also those of other processes.

    Raises:
        ConfigError: There is no such model, `trials` is below 1, or every trial failed (the first fault is named).
        MissingExtra: Optuna is not installed; or FBGEMM was asked for, and is not.
    """
    if trials < 1:
        raise ConfigError(f"trials = {trials} is out of range; give at least 1")
    training = _monitoring(training or Training(), metric)
    check_embeddings(training)
    fixed, space = dict(config or {}), {k: v for k, v in SPACES.get(model, {}).items() if k not in (config or {})}
    built = fresh_model(model, fixed, train)[1]  # A wrong name or setting is an error before the first trial.
    validator = Validator(valid, built, training.monitor)
    study = Study(
        Path(storage),
        model,
        _conditions(train, valid, built, [fixed, to_dict(training), repr(space), max_users]),
        seed=seed,
        higher_is_better=validator.higher_is_better,
        patience=training.filled(built.default_training).patience or 0,  # a model with members leaves it to them
    )

    def objective(trial: Any) -> float:
        chosen = {name: _suggest(trial, name, kind) for name, kind in space.items()}
        return _evaluated(trial, _build(model, fixed, training, chosen, train), train, valid, max_users)

    found = _run_all(study, trials if space else 1, objective, on_trial)
    complete = [t for t in found if t.value is not None]
    if not complete:
        raise ConfigError(f"all {len(found)} trials of {model} failed; the first: {found[0].fault or found[0].state}")
    best = (max if validator.higher_is_better else min)(complete, key=lambda t: t.value or 0.0)
    built, settings = _build(model, fixed, training, best.settings, train)
    assert best.value is not None  # it is complete
    return Tuned(
        model=model, metric=validator.metric, value=best.value, config=built.config, training=settings, trials=found
    )


def check_embeddings(training: Training) -> None:
    """Check that FBGEMM can run if it was asked for, before a run of many models fails one by one.

    Raises:
        MissingExtra: It is not installed, or does not fit the installed torch.
    """
    if training.embeddings == "fbgemm":
        require_fbgemm()


def untuned(
    train: Dataset, model: str, metric: str, *, config: Mapping[str, Any] | None = None, training: Training
) -> Tuned:
    """The settings of a model as it comes, in the form of a search without trials; needs no Optuna.

    Args:
        train: The training part.
        model: Name in `MODELS`.
        metric: The metric that chooses epochs.
        config: Settings other than the defaults. Defaults to none.
        training: Training settings; what they leave open is the model's own choice.

    Raises:
        ConfigError: There is no such model or setting.
    """
    built, settings = _build(model, dict(config or {}), training, {}, train)
    return Tuned(model=model, metric=metric, value=math.nan, config=built.config, training=settings, trials=())


def _monitoring(training: Training, metric: MetricLike | None) -> Training:
    """The training settings with the metric that chooses epochs."""
    if metric is None:
        return training
    (name,) = metric_names([metric])
    if training.monitor not in ("auto", name):
        raise ConfigError(f"metric = {name!r} and training.monitor = {training.monitor!r} differ; leave one out")
    return replace(training, monitor=name)


def _conditions(train: Dataset, valid: Dataset, built: Model, others: list[Any]) -> list[Any]:
    """What the result of a trial depends on besides its settings."""
    # The fingerprint leaves side tables out; what was inferred from them is in the spec.
    spec = hashlib.sha256(json.dumps(to_dict(built.spec), sort_keys=True).encode()).hexdigest()
    return [train.fingerprint, valid.fingerprint, spec, *others]


def _run_all(
    study: Study, trials: int, objective: Callable[[Any], float], on_trial: Callable[[Trial], None] | None
) -> tuple[Trial, ...]:
    """Run trials until all are finished, here or in another process; returns them in order."""
    told = set(study.finished())
    while True:
        done = {number: frozen for number, frozen in study.finished().items() if number < trials}
        if on_trial is not None:
            for number in sorted(done.keys() - told):
                on_trial(_trial(number, done[number]))
        told |= done.keys()
        if len(done) == trials:
            return tuple(_trial(number, frozen) for number, frozen in done.items())
        with study.claim(trials) as claimed:
            if claimed is not None:
                study.run(claimed, objective)
        if claimed is None:
            time.sleep(POLL)


def _evaluated(
    trial: Any, built: tuple[Model, Training], train: Dataset, valid: Dataset, max_users: int | None
) -> float:
    """Train one trial's model, stopping it early if it falls behind; returns its metric on `valid`."""
    model, settings = built
    validator = Validator(valid, model, settings.monitor, max_users=max_users)

    def watch(epoch: Epoch) -> None:
        trial.report(epoch.valid[validator.metric], epoch.epoch)
        if trial.should_prune():
            raise require_optuna().TrialPruned

    model.fit(train, settings, validator, on_epoch=watch)
    return float(validator(model)[validator.metric])


def _suggest(trial: Any, name: str, kind: Range | Choice) -> Any:
    if isinstance(kind, Choice):
        return trial.suggest_categorical(name, list(kind.values))
    if isinstance(kind.low, int) and isinstance(kind.high, int):
        return trial.suggest_int(name, kind.low, kind.high, log=kind.log)
    return trial.suggest_float(name, kind.low, kind.high, log=kind.log)


def _build(
    model: str, fixed: Mapping[str, Any], training: Training, chosen: Mapping[str, Any], train: Dataset
) -> tuple[Model, Training]:
    """The model of one trial, untrained, and its training."""
    prefix = "training."
    own = {name: value for name, value in chosen.items() if not name.startswith(prefix)}
    changed = {name.removeprefix(prefix): value for name, value in chosen.items() if name.startswith(prefix)}
    built = fresh_model(model, {**fixed, **own}, train)[1]
    return built, from_dict(Training, {**to_dict(training), **changed}).filled(built.default_training)


def _trial(number: int, frozen: Any) -> Trial:
    state = {"FAIL": "failed"}.get(frozen.state.name, frozen.state.name.lower())
    return Trial(
        number=number,
        state=state,
        value=frozen.value if state == "complete" else None,
        settings=dict(frozen.params),
        seconds=frozen.duration.total_seconds(),
        fault=frozen.user_attrs.get("fault", ""),
    )


def unknown_settings(spaces: Mapping[str, Space] = SPACES) -> list[str]:
    """Keys of the spaces that no model or training has; a test keeps this empty."""
    known = {f"training.{field.name}" for field in fields(Training)}
    return [
        f"{name}: {key}"
        for name, space in spaces.items()
        for key in space
        if name not in MODELS or key not in known | {field.name for field in fields(MODELS[name].Config)}
    ]
