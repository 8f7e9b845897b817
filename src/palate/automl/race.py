"""The race: candidates in order of cost under one budget of time, with successive halving on the valid part.

First come the models with their default settings. Models without epochs are trained whole. The training of the others
pauses after 10 % and after 30 % of their largest number of epochs. If the remaining time is not enough for all of them,
models of the worse half are dropped, the most expensive first (after Jamieson and Talwalkar 2016). A model that is kept
continues from its checkpoint. Then settings are sampled from the search spaces of the best models. They run in the same
way, in small groups, and the worse half of a group is always dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median

from palate.automl.candidates import Candidate, sampled, space_of
from palate.automl.catalogue import BASELINE, TIERS
from palate.automl.state import Clock, Run, State
from palate.config import Training, from_dict, to_dict
from palate.data.dataset import Dataset
from palate.errors import ArtifactError, PalateError
from palate.evaluation.evaluate import evaluate
from palate.evaluation.metrics import METRICS
from palate.evaluation.validate import Validator
from palate.models.base import Model
from palate.recommender.artifact import fresh_model
from palate.training.train_run import Epoch

RUNGS = (0.1, 0.3, 1.0)
"""Shares of a model's largest number of epochs after which it pauses; the last is the end."""
USUAL = 0.5
"""Share of a model's largest number of epochs after which training usually ends."""
LEADERS = 4
"""Best models, of which those that do not choose all their settings themselves are tried with sampled ones."""
GROUP = 2
"""Settings of each leader that run side by side."""
MEMBERS = 4
"""Largest number of members of a blend; the weights of as many models are kept."""
REPORTING, BLENDING = 3.0, 8.0
"""Seconds for the report; and the time to blend, as a multiple of the time to evaluate the members on valid."""
MAX_STARTS = 2
"""Starts of a candidate that ended with the whole process, after which it is not started again."""


class _Pause(Exception):
    """Training has made the epochs of its rung."""


class _OutOfTime(Exception):
    """The time for searching is spent."""


OnStep = Callable[[int, int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What candidates are trained and evaluated on.

    Attributes:
        train: The training part.
        valid: The part they are evaluated on.
        metric: The metric.
        seed: Seed of training and of sampled settings.
        say: Called with a line of news.
        on_step: As in `palate.training.train_run.TrainRun`.
    """

    train: Dataset
    valid: Dataset
    metric: str
    seed: int
    say: Callable[[str], None]
    on_step: OnStep | None = None

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return -1 if METRICS[self.metric.partition("@")[0]].better == "lower" else 1

    def build(self, run: Run) -> Model:
        """The model of a run, not fitted, with the settings it chose itself if it has been fitted."""
        config = run.config or dict(run.candidate.config)
        return fresh_model(run.candidate.model, config, self.train)[1]

    def training(self, run: Run, model: Model) -> Training:
        """The training settings of a run."""
        given = {"monitor": self.metric, "seed": self.seed, **run.candidate.training}
        return from_dict(Training, given).filled(model.default_training)


class Race:
    """A search: its runs so far, and what to run next.

    Args:
        task: What candidates are trained and evaluated on.
        state: Where runs are kept.
        clock: The time spent.
        candidates: The models as they come, in order of cost.
        finish: Seconds of the evaluation on test for each second of that on valid.
    """

    def __init__(self, task: Task, state: State, clock: Clock, candidates: Sequence[Candidate], finish: float) -> None:
        self.task, self.state, self.clock = task, state, clock
        self.runs = [state.run(candidate) for candidate in candidates]
        self._finish = finish

    def search(self, trials: int) -> None:
        """Run the candidates, then so many sampled settings; ends when nothing is left to try, or the time is spent."""
        first = list(self.runs)
        self._halve(first, "as they come", always=False)
        for run in self.best(run for run in first if run.status == "dropped"):  # there is time for them now
            if self.clock.spent + self._rest(run) < self.end:
                self._advance(run, run.candidate.epochs)
        leaders = self.state.decide("leaders", self._leaders) if trials and self.clock.spent < self.end else []
        by_name = {run.candidate.model: run for run in first}
        numbers = iter(range(1, trials + 1))
        group = 0
        while leaders and self.clock.spent < self.end:
            drawn = [(name, n) for _ in range(GROUP) for name, n in zip(leaders, numbers, strict=False)]
            if not drawn:
                break
            group += 1
            more = [
                self.state.run(sampled(by_name[name].candidate, n, self.task.seed, by_name[name].seconds))
                for name, n in drawn
            ]
            self.runs += more
            self._halve(more, f"settings {group}", always=True)
            if all(run.status == "waiting" for run in more):  # not one of them could be started
                break

    def best(self, runs: Iterable[Run]) -> list[Run]:
        """The runs that have a value on valid, best first."""
        return sorted((run for run in runs if run.value is not None), key=self._signed, reverse=True)

    def final(self) -> list[Run]:
        """The runs with an evaluation on valid, best first."""
        return [run for run in self.best(self.runs) if run.evaluation]

    def distinct(self, runs: Iterable[Run]) -> list[Run]:
        """The best run of each model, best first."""
        found: dict[str, Run] = {}
        for run in self.best(runs):
            found.setdefault(run.candidate.model, run)
        return list(found.values())

    def model(self, run: Run) -> Model:
        """The fitted model of a final run; fitted again if its weights were not kept."""
        kept = self.state.weights(run)
        return self._fit(run, None, None)[0] if kept is None else kept

    @property
    def end(self) -> float:
        """Seconds spent at which the search ends, so that there is time to blend, to evaluate and to refit."""
        leaders = self.distinct(self.final())[:MEMBERS]
        judging = sum(run.evaluation["seconds"]["predict"] for run in leaders)
        # A model that has chosen its settings is fitted once more with them only.
        refit = sum((0.3 if run.chosen else 1.2) * run.seconds for run in leaders)
        needed = REPORTING + refit + (BLENDING + 2 * self._finish) * judging
        return self.clock.budget - min(float(needed), 0.4 * self.clock.budget)

    def _halve(self, runs: list[Run], name: str, always: bool) -> None:
        """Run a group, rung by rung."""
        waiting = sorted(runs, key=lambda run: (run.candidate.tier != BASELINE, self._first(run)))
        for run in waiting:
            if run.candidate.tier == BASELINE or self.clock.spent + self._first(run) < self.end:
                self._advance(run, round(RUNGS[0] * run.candidate.epochs))
        for rung, share in enumerate(RUNGS[1:], 1):
            racing = [run for run in runs if run.status == "paused"]
            gone = self.state.decide(f"{name}, {rung}", partial(self._losers, racing, always))
            for run in racing:
                if run.candidate.id in gone:
                    run.status = "dropped"
                    self.state.save(run)
            racing = [run for run in racing if run.status == "paused"]
            for run in sorted(racing, key=self._rest):
                if self.clock.spent < self.end:
                    self._advance(run, round(share * run.candidate.epochs))
        for run in runs:
            if run.status == "paused":
                self._stop(run)

    def _losers(self, racing: list[Run], always: bool) -> list[str]:
        """Which runs of a rung do not go on."""
        ordered = self.best(racing)
        worse = sorted(ordered[(len(ordered) + 1) // 2 :], key=self._rest, reverse=True)
        gone: list[str] = []
        left = sum(map(self._rest, racing))
        for run in worse:
            if not always and self.clock.spent + left < self.end:
                break
            gone.append(run.candidate.id)
            left -= self._rest(run)
        return gone

    def _leaders(self) -> list[str]:
        """Models whose settings are sampled: of the best ones, those that are better than the baselines."""
        best = self.distinct(self.final())[:LEADERS]
        floor = max((self._signed(run) for run in self.runs if run.candidate.tier == BASELINE), default=-math.inf)
        return [run.candidate.model for run in best if self._signed(run) > floor and space_of(run.candidate)]

    def _signed(self, run: Run) -> float:
        """The value of a run on valid, so that higher is better; a run without one is the worst."""
        return -math.inf if run.value is None else self.task.sign * run.value

    def _pace(self) -> float:
        """How much longer this machine and this data take than estimated."""
        done = [run for run in self.runs if run.status == "finished" and run.seconds > 0.5 and not run.candidate.number]
        return min(max(median([run.seconds / run.candidate.seconds for run in done] or [1.0]), 0.2), 20.0)

    def _first(self, run: Run) -> float:
        """Estimated seconds of a run's first step: whole, or up to its first pause."""
        share = RUNGS[0] / USUAL if run.candidate.epochs else 1.0
        return share * run.candidate.seconds * (1.0 if run.candidate.number else self._pace())

    def _rest(self, run: Run) -> float:
        """Estimated seconds to the end of a run that has begun."""
        usual = max(USUAL * run.candidate.epochs, run.epochs + RUNGS[0] * run.candidate.epochs)
        return run.seconds / max(run.epochs, 1) * (min(usual, run.candidate.epochs) - run.epochs)

    def _advance(self, run: Run, epochs: int) -> None:
        """Train to so many epochs, or to the end, and keep the result."""
        if run.status not in ("waiting", "paused", "dropped") or (run.status != "waiting" and run.epochs >= epochs):
            return  # done before this search was stopped
        if run.starts >= MAX_STARTS:
            run.status, run.fault = "failed", "the process ended each time while it ran; memory may have run out"
            self.state.save(run)
            return
        run.starts += 1
        self.state.save(run)
        start, before = time.monotonic(), run.seconds
        fitted = None
        try:
            fitted = self._fit(run, epochs, self.end)
            run.status = "finished"
        except _Pause:
            run.status = "paused"
        except _OutOfTime:
            run.status = "stopped"
        except KeyboardInterrupt:
            run.starts -= 1
            run.seconds = before + time.monotonic() - start
            self.state.save(run)
            raise
        except (ArtifactError, OSError):  # for example, the disk is full: every other candidate would fail too
            raise
        except Exception as error:  # the other candidates go on; the report names the fault
            said = str(error) if isinstance(error, PalateError) else f"{type(error).__name__}: {error}"
            run.status, run.fault = "failed", said
        run.seconds = before + time.monotonic() - start
        self._end(run, fitted)

    def _stop(self, run: Run) -> None:
        """End a run that is paused, with the best weights so far: no time is left to continue it."""
        run.status = "stopped"
        self._end(run, None)

    def _end(self, run: Run, fitted: tuple[Model, Training, list[Epoch]] | None) -> None:
        """A run has paused or ended."""
        if run.status == "stopped" and run.epochs:
            fitted = self._fit(run, None, None)
        if fitted is not None:
            self._keep(run, *fitted)
        run.starts, run.ended = 0, self.clock.spent
        self.state.save(run)
        self._tell(run)

    def _fit(self, run: Run, epochs: int | None, end: float | None) -> tuple[Model, Training, list[Epoch]]:
        """Fit the model of a run, from its checkpoint if it has one.

        Args:
            run: The run; its epochs and values follow the training.
            epochs: Where to pause, for a model with epochs.
            end: Seconds spent at which to stop. None gives the best weights of the epochs done, or runs to the end.
        """
        candidate, model = run.candidate, self.task.build(run)
        training = self.task.training(run, model)
        if end is None and candidate.epochs and run.epochs:  # the epochs done, and no more
            training = replace(training, epochs=run.epochs)
        validate = Validator(self.task.valid, model, self.task.metric)

        def on_epoch(record: Epoch) -> None:
            if record.member or not candidate.epochs:
                return
            value = record.valid[self.task.metric]
            if not math.isnan(value) and (run.value is None or self.task.sign * (value - run.value) > 0):
                run.value = value
            run.epochs = record.epoch
            self.state.save(run)
            if epochs is not None and epochs <= record.epoch < candidate.epochs:
                raise _Pause
            if end is not None and self.clock.spent > end:
                raise _OutOfTime

        def on_step(epoch: int, done: int, total: int, loss: float) -> None:
            if end is not None and self.clock.spent > end:
                raise _OutOfTime
            if self.task.on_step is not None:
                self.task.on_step(epoch, done, total, loss)

        checkpoint = self.state.checkpoint(candidate) if candidate.epochs else None
        records = model.fit(
            self.task.train, training, validate, checkpoint=checkpoint, on_epoch=on_epoch, on_step=on_step
        )
        return model, training, records

    def _keep(self, run: Run, model: Model, training: Training, records: list[Epoch]) -> None:
        """Keep the result of a run: settings, records, the evaluation on valid, and the weights if needed."""
        run.config, run.training = to_dict(model.config), to_dict(training)
        run.chosen = getattr(model, "chosen", "")
        run.records = [asdict(record) for record in records]
        found = evaluate(model, self.task.valid, [self.task.metric], name=run.candidate.label, fit_seconds=run.seconds)
        run.evaluation = found.to_dict()
        run.value = found[self.task.metric].value
        self.state.save_weights(run, model)
        needed = self.distinct(self.final())[:MEMBERS]
        for tier in range(len(TIERS)):
            needed += [each for each in self.final() if each.candidate.tier == tier][:1]
        for each in self.runs:
            if not any(each is other for other in needed):
                self.state.drop_weights(each)

    def _tell(self, run: Run) -> None:
        """One line of news."""
        clock = f"{_minutes(self.clock.spent)} of {_minutes(self.clock.budget)}"
        value = "" if run.value is None else f"{self.task.metric} {run.value:.4f} on valid, "
        epochs = f"{run.epochs} epochs, " if run.epochs else ""
        after = {"finished": "", "stopped": ", the time was spent", "paused": ", paused"}.get(run.status, run.fault)
        self.task.say(f"{clock}  {run.candidate.label}: {value}{epochs}{run.seconds:.1f} s{after}")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60:3}:{int(seconds) % 60:02}"
