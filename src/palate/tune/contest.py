"""contest(): several models under one protocol and one tuning budget, tuned on `valid` and evaluated once on `test`.

Every model gets the same number of trials. Its best settings are then trained with several seeds, each in a process of
its own (so that peak memory is that run's), and evaluated on `test`. Finished trials and runs are kept in the folder: a
contest that was stopped continues from there, and several processes can share one. What was stopped halfway is done
again; the results are those of an undisturbed contest.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palate.config import Training, to_dict
from palate.data.ragged import Ragged
from palate.data.splits.build import Split
from palate.errors import ConfigError, PalateError
from palate.evaluation.compare import Comparison, better_of, compare
from palate.evaluation.evaluate import Estimate, Evaluation, Slice, evaluate
from palate.evaluation.metrics import METRICS, Metric, MetricLike, metric_names, own_metrics
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol
from palate.evaluation.result import estimate_means
from palate.models import MODELS
from palate.recommender.recommender import Recommender
from palate.training.loop import Epoch
from palate.tune.child import run_in_child
from palate.tune.locks import POLL, locked, try_lock, write_whole
from palate.tune.search import Trial, Tuned, check_embeddings, tune, untuned
from palate.tune.study import require_optuna


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of a contest.

    Attributes:
        tuned: Its search on `valid`; without trials if the budget was 0.
        runs: Seed -> evaluation on `test`.
        epochs: Records of the first seed's run.
        memory: Peak resident memory of a run, in bytes, including the data.
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
    """The results of a contest.

    Attributes:
        entries: Model -> entry, for the models that took part.
        faults: Model -> why it could not take part.
        metric: The metric that is compared.
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

    def value_of_order(self) -> str | None:
        """Whether the best model that reads the order of events is better than the best of the others, in a sentence.

        None without a model of either kind, or for a metric without a better direction. Blends and hybrids are left
        aside, since their members may be of both kinds.
        """
        better = METRICS[self.metric.partition("@")[0]].better
        sign = {"higher": 1, "lower": -1}.get(better or "", 0)
        values = {n: e.estimates[self.metric].value for n, e in self.evaluations.items() if self.metric in e.estimates}
        single = [name for name in values if name not in ("blend", "hybrid")]
        best = {MODELS[name].reads_order: name for name in sorted(single, key=lambda n: sign * values[n])}
        if not sign or len(best) < 2:
            return None
        reader, other = best[True], best[False]
        [pair] = (d for d in self.comparison().differences if {d.first, d.second} == {reader, other})
        claims = {reader: "Order pays on this data", other: "Order does not pay on this data"}
        claim = claims.get(better_of(pair, self.metric) or "", "It is not shown that order pays on this data")
        return (
            f"{claim}: {reader} is the best of the models that read the order of events, {other} of the others; "
            f"{pair.verdict}"
        )


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
    metric: MetricLike = "ndcg@10",
    max_users: int | None = None,
    on_news: Callable[[str], None] | None = None,
) -> Contest:
    """Tune, train and evaluate several models.

    Args:
        parts: One split; `test` is used once for each model and seed.
        models: Names in `MODELS`. A blend's members are the models named before it, as tuned.
        budget: Number of trials of each model; 0 takes the models as they come, and needs no Optuna.
        out: Folder for study and results.
        protocol: How `test` is evaluated, with `metric` among its metrics. Defaults to the usual metrics and `metric`.
            Functions take part by their names: `Protocol(metrics=metric_names(["ndcg@10", my_metric]))`.
        candidates: Candidate lists, for a protocol with given candidates (`palate.evaluation.protocols.prepare`).
        training: Training settings that trials start from; its `monitor` chooses epochs, "auto" stands for `metric`.
            Defaults to `Training()`.
        seeds: Seeds of the final runs.
        metric: Name or function of the metric that is compared. Contests train in processes of their own, which must
            be able to import the function.
        max_users: Number of users of `valid` that trials are evaluated on. Defaults to all.
        on_news: Called with one line after each trial and run.

    Raises:
        ConfigError: The folder holds another contest, the protocol lacks `metric`, a function cannot be imported, or
            no model could take part.
        MissingExtra: There is a budget, and Optuna is not installed; or FBGEMM was asked for, and is not.
    """
    if budget:
        require_optuna()
    home = Path(out)
    training = training or Training()
    check_embeddings(training)
    (metric,) = metric_names([metric])
    training = replace(training, monitor=metric) if training.monitor == "auto" else training
    protocol = protocol or Protocol(metrics=tuple(dict.fromkeys((metric, *METRICS_BY_DEFAULT))))
    if metric not in protocol.metrics:
        raise ConfigError(f"metric = {metric!r} is not one of the protocol's: {', '.join(protocol.metrics)}")
    own = _importable(own_metrics(protocol.metrics))
    _claim(home, parts, training, protocol)
    say = on_news or (lambda line: None)
    entries: dict[str, Entry] = {}
    faults: dict[str, str] = {}
    for name in models:
        try:
            config = {"members": _members(entries)} if name == "blend" and entries else {}
            tuned = _tuned(parts, name, config, budget, home, (training, metric, max_users), say)
            runs = _runs(parts, name, tuned, seeds, home, (protocol, candidates, own), say)
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
    """The members of a blend of the models so far, as tuned."""
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
    conditions: tuple[Training, str, int | None],
    say: Callable[[str], None],
) -> Tuned:
    training, metric, users = conditions

    def show(trial: Trial) -> None:
        value = trial.fault or (trial.state if trial.value is None else f"{trial.value:.4f}")
        say(f"{name}: trial {trial.number + 1} of {budget}: {value} ({trial.seconds:.1f} s)")

    if not budget:
        return untuned(parts.train, name, metric, config=config, training=training)
    say(f"{name}: tuning on valid, {budget} trials")
    tuned = tune(
        parts.train,
        parts.valid,
        name,
        budget,
        storage=home / "study.db",
        config=config,
        training=training,
        max_users=users,
        on_trial=show,
    )
    tuned.save(home / f"{name}.json")
    return tuned


_Conditions = tuple[Protocol, Ragged | None, dict[str, Metric]]


@dataclass(frozen=True, kw_only=True)
class _Run:
    evaluation: Evaluation
    epochs: list[Epoch]
    memory: int


def _runs(
    parts: Split,
    name: str,
    tuned: Tuned,
    seeds: Sequence[int],
    home: Path,
    conditions: _Conditions,
    say: Callable[[str], None],
) -> dict[int, _Run]:
    """The run of each seed, from the folder if it is there; returns when all are done, here or in another process."""
    found: dict[int, _Run] = {}
    while len(found) < len(seeds):
        before = len(found)
        for seed in seeds:
            run = None if seed in found else _run(parts, name, tuned, seed, home, conditions)
            if run is not None:
                found[seed] = run
                seconds = run.evaluation.seconds["fit"]
                say(f"{name}: seed {seed} evaluated on test, after {seconds:.1f} s of training")
        if len(found) == before:
            time.sleep(POLL)
    return {seed: found[seed] for seed in seeds}


def _run(parts: Split, name: str, tuned: Tuned, seed: int, home: Path, conditions: _Conditions) -> _Run | None:
    """One training run and its evaluation; None while another process is at it."""
    path = home / "results" / f"{name}-{seed}.json"
    training = replace(tuned.training, seed=seed)
    settings = json.loads(json.dumps({"config": to_dict(tuned.config), "training": to_dict(training)}))
    run = _stored(path, settings)
    if run is None:
        with try_lock(home, f"{name}-{seed}") as free:
            run = _stored(path, settings)
            if free and run is None:
                arguments = (parts, name, tuned.config, training, conditions)
                found = run_in_child(_train_and_evaluate, *arguments)
                path.parent.mkdir(exist_ok=True)
                write_whole(path, json.dumps({**found, "settings": settings}))
                run = _stored(path, settings)
    return run


def _stored(path: Path, settings: dict[str, Any]) -> _Run | None:
    """A finished run; None if there is none with these settings, which change with the budget."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if found.get("settings") != settings:
        return None
    evaluation = Evaluation.from_dict(found["evaluation"])
    return _Run(evaluation=evaluation, epochs=[Epoch(**e) for e in found["epochs"]], memory=found["memory"])


def _train_and_evaluate(
    parts: Split, name: str, config: Any, training: Training, conditions: _Conditions
) -> dict[str, Any]:
    """Train a model and evaluate it on `test`; runs in a process of its own."""
    protocol, candidates, own = conditions
    METRICS.update(own)
    start = time.perf_counter()
    valid = parts.valid if len(parts.valid) else None
    rec = Recommender.train(parts.train, name, config, training, valid)
    seconds = time.perf_counter() - start
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
        found = estimate_means(values, slices[0].weights, first.protocol.seed)
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


def _claim(home: Path, parts: Split, training: Training, protocol: Protocol) -> None:
    """Write the conditions of this contest; refuse a folder that holds another contest."""
    fingerprints = {name: getattr(parts, name).fingerprint for name in ("train", "valid", "test")}
    this = {"parts": fingerprints, "training": to_dict(training), "protocol": protocol.to_dict()}
    this = json.loads(json.dumps(this))
    path = home / "contest.json"
    with locked(home, "contest"):
        if not path.exists():
            write_whole(path, json.dumps(this, indent=1))
        elif json.loads(path.read_text(encoding="utf-8")) != this:
            raise ConfigError(f"{home} holds a contest with other data, settings or protocol; name another folder")


def _importable(own: dict[str, Metric]) -> dict[str, Metric]:
    """The user's own metrics, if another process can import them.

    Raises:
        ConfigError: One is defined inside a function, or in a notebook.
    """
    for name, metric in own.items():
        function = metric.function
        module = sys.modules.get(getattr(function, "__module__", ""))
        if getattr(module, "__file__", None) is None or getattr(module, name, None) is not function:
            raise ConfigError(
                f"the metric function {name!r} must be defined at the top of a file, because a contest trains and "
                "evaluates in processes of their own, which import it"
            )
    return own
