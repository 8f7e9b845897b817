"""contest(): several models under one protocol and one tuning budget; each chosen on `valid`, judged once on `test`.

Every model gets the same number of trials. The best settings are then trained with several seeds, each in a process
of its own (so that peak memory is that run's), and judged on `test`. What is finished is kept in the folder: a contest
that was stopped goes on where it stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import Training, to_dict
from palate.data.dataset import Dataset
from palate.data.parts import Split
from palate.data.ragged import Ragged
from palate.errors import ConfigError, PalateError
from palate.evaluation.compare import Comparison, compare
from palate.evaluation.evaluate import Estimate, Evaluation, Slice, evaluate
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol
from palate.evaluation.result import estimates
from palate.recommender import Recommender
from palate.training.loop import Epoch
from palate.tune.search import Tuned, tune


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a contest.

    Attributes:
        tuned: Its search on `valid`.
        runs: Seed -> evaluation on `test`.
        epochs: Of the first seed's run.
        memory: Largest resident memory of a run, bytes, the data included.
    """

    tuned: Tuned
    runs: Mapping[int, Evaluation]
    epochs: Sequence[Epoch]
    memory: int

    @property
    def evaluation(self) -> Evaluation:
        """The mean over the seeds, user by user; intervals are over users."""
        return averaged(list(self.runs.values()))


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What a contest found.

    Attributes:
        entries: Model -> entry; models that could not take part are not here.
        faults: Model -> why it could not.
        metric: The headline.
    """

    entries: Mapping[str, Entry]
    faults: Mapping[str, str]
    metric: str

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Model -> mean over the seeds."""
        return {name: entry.evaluation for name, entry in self.entries.items()}

    def comparison(self) -> Comparison:
        """All pairs on the headline metric, adjusted for their number."""
        found = self.evaluations
        return compare({n: e for n, e in found.items() if self.metric in e.estimates}, self.metric)


def contest(
    parts: Split,
    models: Sequence[str],
    budget: int,
    out: str | Path,
    *,
    protocol: Protocol | None = None,
    candidates: Ragged | None = None,
    training: Training | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    metric: str = "ndcg@10",
    max_users: int | None = None,
    on_news: Callable[[str], None] | None = None,
) -> Contest:
    """Tune, train and judge.

    Args:
        parts: One split; `test` is touched once for each model and seed.
        models: Names in `MODELS`; a blend is of those named before it, as they were tuned.
        budget: Trials of each model.
        out: Folder that keeps study and results.
        protocol: How `test` is judged, `metric` among its metrics; default: the usual metrics, and `metric`.
        candidates: The lists, where the protocol's are given (`palate.evaluation.protocols.prepare`).
        training: What trials start from; default `Training()`. `valid` chooses by its `monitor`; auto is `metric`.
        seeds: Of the final runs.
        metric: The headline.
        max_users: Users of `valid` that trials are judged on; default all.
        on_news: Called with one line after each trial and run.

    Raises:
        ConfigError: The folder holds another contest, the protocol lacks `metric`, or no model could take part.
    """
    home = Path(out)
    home.mkdir(parents=True, exist_ok=True)
    training = training or Training()
    training = replace(training, monitor=metric) if training.monitor == "auto" else training
    protocol = protocol or Protocol(metrics=tuple(dict.fromkeys((metric, *METRICS_BY_DEFAULT))))
    if metric not in protocol.metrics:
        raise ConfigError(f"the headline {metric!r} is not among the protocol's {', '.join(protocol.metrics)}")
    _claim(home / "contest.json", parts, training, protocol)
    say = on_news or (lambda line: None)
    entries: dict[str, Entry] = {}
    faults: dict[str, str] = {}
    for name in models:
        try:
            say(f"{name}: tuning on valid, {budget} trials")
            config = {"members": _members(entries)} if name == "blend" and entries else {}
            tuned = _tuned(parts, name, config, budget, home, training, max_users, say)
            runs = {seed: _run(parts, name, tuned, seed, home, (protocol, candidates), say) for seed in seeds}
        except PalateError as error:
            faults[name] = str(error)
            say(f"{name}: {error}")
            continue
        entries[name] = Entry(
            tuned=tuned,
            runs={seed: run.evaluation for seed, run in runs.items()},
            epochs=next(iter(runs.values())).epochs,
            memory=max(run.memory for run in runs.values()),
        )
    if not entries:
        raise ConfigError.faults("no model could take part", [f"{name}: {fault}" for name, fault in faults.items()])
    return Contest(entries=entries, faults=faults, metric=metric)


def _members(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """What a blend of the models so far is made of, as tuned."""
    return [
        {"model": name, "config": to_dict(entry.tuned.config), "training": to_dict(entry.tuned.training)}
        for name, entry in entries.items()
    ]


def _tuned(
    parts: Split,
    name: str,
    config: dict[str, Any],
    budget: int,
    home: Path,
    training: Training,
    users: int | None,
    say: Callable[[str], None],
) -> Tuned:
    def told(trial: Any) -> None:
        value = trial.fault or (trial.state if trial.value is None else f"{trial.value:.4f}")
        say(f"{name}: trial {trial.number + 1} of {budget}: {value} ({trial.seconds:.1f} s)")

    study = home / "study.db"
    tuned = tune(
        parts.train,
        parts.valid,
        name,
        budget,
        storage=study,
        config=config,
        training=training,
        max_users=users,
        on_trial=told,
    )
    tuned.save(home / f"{name}.json")
    return tuned


_Conditions = tuple[Protocol, Ragged | None]


@dataclass(frozen=True, kw_only=True)
class _Run:
    evaluation: Evaluation
    epochs: list[Epoch]
    memory: int


def _run(
    parts: Split, name: str, tuned: Tuned, seed: int, home: Path, conditions: _Conditions, say: Callable[[str], None]
) -> _Run:
    """One training and judgement, from the folder if it is there."""
    path = home / "results" / f"{name}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(
                _judge, parts, name, tuned.config, replace(tuned.training, seed=seed), conditions
            ).result()
        half = path.with_suffix(".tmp")
        half.write_text(json.dumps(found), encoding="utf-8")
        half.replace(path)
    found = json.loads(path.read_text(encoding="utf-8"))
    evaluation = Evaluation.from_dict(found["evaluation"])
    say(f"{name}: seed {seed} judged on test in {evaluation.seconds['fit']:.1f} s of training")
    return _Run(evaluation=evaluation, epochs=[Epoch(**e) for e in found["epochs"]], memory=found["memory"])


def _judge(parts: Split, name: str, config: Any, training: Training, conditions: _Conditions) -> dict[str, Any]:
    """Runs in a process of its own."""
    start = time.perf_counter()
    valid = parts.valid if len(parts.valid) else None
    rec = Recommender.train(parts.train, name, config, training, valid)
    seconds = time.perf_counter() - start
    protocol, candidates = conditions
    evaluation = evaluate(
        rec.model, parts.test, protocol=protocol, candidates=candidates, name=name, fit_seconds=seconds
    )
    unit = 1 if sys.platform == "darwin" else 1024
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"evaluation": evaluation.to_dict(), "epochs": [asdict(e) for e in rec.records], "memory": memory}


def averaged(runs: Sequence[Evaluation]) -> Evaluation:
    """The mean of several evaluations of one model under one protocol, user by user."""
    first = runs[0]
    if len(runs) == 1:
        return first

    def mean(part: str) -> Slice:
        slices = [run.slices[part] for run in runs]
        values = {m: np.mean([s.values[m] for s in slices], axis=0) for m in slices[0].values}
        found = estimates(values, slices[0].ratings, first.protocol.seed)
        for metric in [m for m in slices[0].estimates if m not in found]:  # of lists as a whole: no value of a user
            each = [s.estimates[metric] for s in slices]
            low, high = np.mean([e.low for e in each]), np.mean([e.high for e in each])
            value = float(np.mean([e.value for e in each]))
            found[metric] = Estimate(value=value, low=float(low), high=float(high), n=each[0].n)
        return replace(slices[0], values=values, estimates={m: found[m] for m in slices[0].estimates})

    return replace(
        first,
        slices={part: mean(part) for part in first.slices},
        exposure=np.sum([run.exposure for run in runs], axis=0),
        seconds={kind: float(np.mean([run.seconds[kind] for run in runs])) for kind in first.seconds},
        notes=(*first.notes, f"mean of {len(runs)} seeds, user by user"),
    )


def _claim(path: Path, parts: Split, training: Training, protocol: Protocol) -> None:
    """Write what this contest is; refuse to mix it with another."""
    fingerprints = {name: part.fingerprint for name, part in _parts(parts).items()}
    this = {"parts": fingerprints, "training": to_dict(training), "protocol": protocol.to_dict()}
    this = json.loads(json.dumps(this))
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != this:
        raise ConfigError(f"{path.parent} holds a contest of other data, settings or protocol; name another folder")
    path.write_text(json.dumps(this, indent=1), encoding="utf-8")


def _parts(parts: Split) -> dict[str, Dataset]:
    return {"train": parts.train, "valid": parts.valid, "test": parts.test}
