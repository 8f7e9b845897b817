"""tune(): search over a model's settings, each trial judged on `valid` and on nothing else (Optuna).

The study lives in a SQLite file: several processes may work on it at once, and a search that was stopped goes on. A
trial that fails is recorded and the search goes on; a trial that is behind the others' median after the same epoch is
stopped early, but none before it had the epochs that early stopping would have waited: what learns slowly, or is
annealed, is behind at first.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import Training, from_dict, to_dict
from palate.data.dataset import Dataset
from palate.errors import ConfigError, MissingExtra, PalateError
from palate.evaluation.validate import Validator
from palate.models import MODELS
from palate.models.base import Model
from palate.routes import fresh_model
from palate.training.loop import Epoch
from palate.tune.spaces import SPACES, Choice, Range, Space


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of settings and how it did.

    Attributes:
        number: From 0, in the order of their start.
        state: complete, pruned (stopped early), failed or running.
        value: The monitored metric on `valid`; None where there is none.
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
    """What a search found.

    Attributes:
        model: Name in `MODELS`.
        metric: What trials were judged by, on `valid`.
        value: The best trial's.
        config: The best trial's model settings, all fields.
        training: The best trial's `Training`.
        trials: All of them.
    """

    model: str
    metric: str
    value: float
    config: Any
    training: Training
    trials: tuple[Trial, ...]

    def save(self, path: str | Path) -> None:
        """Write the settings as JSON that `palate train MODEL --config` takes."""
        settings = to_dict(self.config) | {"training": to_dict(self.training)}
        Path(path).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def tune(
    train: Dataset,
    valid: Dataset,
    model: str,
    trials: int,
    *,
    storage: str | Path,
    config: Mapping[str, Any] | None = None,
    training: Training | None = None,
    seed: int = 0,
    max_users: int | None = None,
    on_trial: Callable[[Trial], None] | None = None,
) -> Tuned:
    """Search the space of a model in `SPACES`.

    Args:
        train, valid: Parts of one split.
        model: Name in `MODELS`.
        trials: How many the study shall hold in all, those of earlier and of other processes included.
        storage: SQLite file, made if need be; studies of other models and data may share it.
        config: Settings that are not searched, other than the defaults.
        training: Likewise; its `patience` and `epochs` bound each trial.
        seed: Decides, with the number of a trial and those before it, on its settings; it trains with `training.seed`.
        max_users: Judge trials on a fixed sample of so many users of `valid`; default all.
        on_trial: Called after each trial of this process.

    Raises:
        ConfigError: There is no such model, fewer than one trial is asked for, or every trial failed (the first fault
            is named).
        MissingExtra: Optuna is not installed.
    """
    if trials < 1:
        raise ConfigError(f"{trials} trials choose nothing; ask for 1 or more")
    optuna = _optuna()
    training = training or Training()
    fixed, space = dict(config or {}), {k: v for k, v in SPACES.get(model, {}).items() if k not in (config or {})}
    fresh_model(model, fixed, train)  # A wrong name or setting is told before the first trial.
    study, metric = _study(optuna, train, valid, model, fixed, training, storage)
    trials = trials if space else 1

    def told(_: Any, frozen: Any) -> None:
        if on_trial is not None:
            on_trial(_trial(frozen))

    def objective(trial: Any) -> float:
        # By its number: neither a search that goes on nor another process tries the same settings once more.
        study.sampler = _sampler(optuna, seed, trial.number)
        chosen = {name: _suggest(trial, name, kind) for name, kind in space.items()}
        try:
            return _judged(trial, _build(model, fixed, training, chosen, train), train, valid, max_users)
        except PalateError as error:
            trial.set_user_attr("fault", str(error))
            raise

    done = optuna.trial.TrialState
    limit = optuna.study.MaxTrialsCallback(trials, states=(done.COMPLETE, done.PRUNED, done.FAIL))
    left = trials - len([t for t in study.trials if t.state.is_finished()])
    if left > 0:
        study.optimize(objective, n_trials=left, callbacks=[limit, told], catch=(PalateError,))
    found = tuple(_trial(t) for t in study.trials)
    complete = [t for t in found if t.state == "complete"]
    if not complete:
        raise ConfigError(f"all {len(found)} trials of {model} failed; the first: {found[0].fault or found[0].state}")
    best = (max if study.direction.name == "MAXIMIZE" else min)(complete, key=lambda t: t.value or 0.0)
    built, how = _build(model, fixed, training, best.settings, train)
    assert best.value is not None  # it is complete
    return Tuned(model=model, metric=metric, value=best.value, config=built.config, training=how, trials=found)


def _judged(trial: Any, built: tuple[Model, Training], train: Dataset, valid: Dataset, max_users: int | None) -> float:
    """Train one trial's model, stopping it where others were ahead; its metric on `valid`."""
    model, how = built
    validator = Validator(valid, model, how.monitor, max_users=max_users)

    def watch(epoch: Epoch) -> None:
        trial.report(epoch.valid[validator.metric], epoch.epoch)
        if trial.should_prune():
            raise _optuna().TrialPruned

    model.fit(train, how, validator, on_epoch=watch)
    return float(validator(model)[validator.metric])


def _study(
    optuna: Any, train: Dataset, valid: Dataset, model: str, fixed: Any, training: Training, storage: Any
) -> tuple[Any, str]:
    """The study of this model on this data in the file, new or as it stands; and its metric."""
    _, built = fresh_model(model, fixed, train)
    validator = Validator(valid, built, training.monitor)
    waits = training.filled(built.recipe).patience or 0  # a model with members leaves it to them
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = " ".join(
        [model, train.fingerprint, valid.fingerprint, json.dumps([fixed, to_dict(training)], sort_keys=True)]
    )
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name=name,
        load_if_exists=True,
        direction="maximize" if validator.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(2, waits)),
    )
    return study, validator.metric


def _sampler(optuna: Any, seed: int, number: int) -> Any:
    """What chooses the settings of one trial."""
    return optuna.samplers.TPESampler(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))


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
    how = {name.removeprefix(prefix): value for name, value in chosen.items() if name.startswith(prefix)}
    built = fresh_model(model, {**fixed, **own}, train)[1]
    return built, from_dict(Training, {**to_dict(training), **how}).filled(built.recipe)


def _trial(frozen: Any) -> Trial:
    seconds = 0.0 if frozen.duration is None else frozen.duration.total_seconds()
    state = {"FAIL": "failed"}.get(frozen.state.name, frozen.state.name.lower())
    value = frozen.value if state == "complete" else None
    return Trial(
        number=frozen.number,
        state=state,
        value=value,
        settings=dict(frozen.params),
        seconds=seconds,
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


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("tuning needs Optuna: pip install 'palate[tune]'") from error
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
