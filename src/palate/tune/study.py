"""Study: the finished trials of one search in a SQLite file, the settings of the next, and who runs it (Optuna).

The search does not depend on how it was run. The settings of trial i, and where it is stopped early, are a function of
the seed, of i and of the trials 0 .. i - PARALLEL. So up to `PARALLEL` processes work on one study at once, and
together they run the same trials as one process. Only finished trials are stored. A trial whose process was stopped has
left nothing, and the next process that is free runs it again, with the same settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from palate.errors import PalateError
from palate.extras import missing_extra
from palate.tune.locks import locked, try_lock

PARALLEL = 4
"""Trials of a study that may run at once; a trial does not depend on the `PARALLEL - 1` trials before it."""
RANDOM_TRIALS = 10
"""Trials with random settings before the sampler learns from results."""
MIN_COMPLETE_TRIALS = 4
"""Complete trials that a median for early stopping needs."""


class Study:
    """One search in a SQLite file, new or continued; other searches may share the file.

    Args:
        path: The file; created if it does not exist. A folder `locks` beside it says who works on what.
        model: Name of the model.
        conditions: JSON-able; everything that a trial's result depends on besides its settings. Searches with other
            conditions are other searches.
        seed: Seed of the settings.
        higher_is_better: Direction of the metric.
        patience: Epochs within which no trial is stopped early.

    Raises:
        MissingExtra: Optuna is not installed.
    """

    def __init__(
        self, path: Path, model: str, conditions: Any, *, seed: int, higher_is_better: bool, patience: int
    ) -> None:
        self._optuna = optuna = require_optuna()
        self._path, self._seed = path, seed
        self._direction = "maximize" if higher_is_better else "minimize"
        self._patience = patience
        text = json.dumps([conditions, seed], sort_keys=True)
        self._name = f"{model}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._stored = optuna.create_study(
                storage=f"sqlite:///{path}", study_name=self._name, load_if_exists=True, direction=self._direction
            )
            if not self._stored.user_attrs:
                self._stored.set_user_attr("conditions", conditions)

    def finished(self) -> dict[int, Any]:
        """Number -> finished trial (`optuna.trial.FrozenTrial`), in order of their numbers."""
        trials = {trial.user_attrs["number"]: trial for trial in self._stored.get_trials(deepcopy=False)}
        return dict(sorted(trials.items()))

    @contextmanager
    def claim(self, trials: int) -> Iterator[int | None]:
        """The first of so many trials that can run and that no process runs; None if there is none.

        While this process holds a trial, no other gets it. If it ends meanwhile, the trial is free again.
        """
        done = self.finished()
        for number in range(trials):
            if number not in done and all(earlier in done for earlier in range(number - PARALLEL + 1)):
                # Trials that run at once differ modulo PARALLEL.
                with try_lock(self._path.parent, f"{self._path.name}-{self._name}-{number % PARALLEL}") as free:
                    if free and number not in self.finished():
                        yield number
                        return
        yield None

    def run(self, number: int, objective: Callable[[Any], float]) -> None:
        """Run one trial and store it.

        Args:
            number: The trial, claimed.
            objective: Takes an `optuna.trial.Trial`, returns its value. A `PalateError` is stored as the attribute
                `fault` of a failed trial.
        """

        def recorded(trial: Any) -> float:
            trial.set_user_attr("number", number)
            try:
                return objective(trial)
            except PalateError as error:
                trial.set_user_attr("fault", str(error))
                raise

        done = self.finished()
        alone = self._before(number, [done[earlier] for earlier in range(number - PARALLEL + 1)])
        alone.optimize(recorded, n_trials=1, catch=(PalateError,))
        with self._locked():
            self._stored.add_trial(alone.get_trials()[-1])

    def _before(self, number: int, known: Sequence[Any]) -> Any:
        """A study in memory in which the next trial is trial `number`: it holds only what this trial may know."""
        optuna = self._optuna
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        study = optuna.create_study(
            direction=self._direction,
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS - PARALLEL + 1),
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=MIN_COMPLETE_TRIALS, n_warmup_steps=max(2, self._patience)
            ),
        )
        study.add_trials(known)
        return study

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process writes to the file."""
        with locked(self._path.parent, self._path.name):
            yield


def require_optuna() -> Any:
    """Optuna, silenced.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("tuning needs Optuna, which is not installed", "tune") from error
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
