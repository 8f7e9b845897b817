"""auto(): look at a table, try the models that fit it within a budget of time, and save the one to use.

The steps: candidates, race on the valid part, blend and verdict, one evaluation on test, refit on all rows, folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import palate
from palate.automl.candidates import Candidate, check_task, choose_task, find_candidates
from palate.automl.candidates import Task as Purpose
from palate.automl.catalogue import BASELINE, TIERS
from palate.automl.race import OnStep, Race, Task
from palate.automl.state import RESULT, SAVING, Clock, Run, State, claim, search_folder
from palate.automl.story import opening, summary
from palate.automl.verdict import Verdict, choose, judge, recommender
from palate.config import to_dict
from palate.data.dataset import Dataset
from palate.data.ragged import Ragged
from palate.data.splits import default_split, split_dataset
from palate.data.splits.build import Split
from palate.errors import ConfigError, DataError
from palate.evaluation import report
from palate.evaluation.compare import compare
from palate.evaluation.evaluate import Evaluation
from palate.evaluation.metrics import MetricLike, metric_names, parse
from palate.evaluation.protocol import METRICS_BY_DEFAULT, Protocol
from palate.evaluation.validate import sample_users
from palate.extras import require
from palate.recommender.evaluation_file import write_measured
from palate.recommender.recommender import Recommender
from palate.recommender.update import refitted
from palate.tune.locks import try_lock, write_whole

FORMAT = 1
"""Version of `auto.json`."""
MIN_ROWS, MIN_USERS = 30, 5
"""Fewest rows and users of a table that can be split into three parts."""
OTHERWISE = {"lists": 'task="ratings" predicts ratings instead', "ratings": 'task="lists" makes lists instead'}
"""How to ask for the other task, by task."""
MAX_JUDGED = 10_000
"""Users of the valid part that candidates are judged on, if it has more: a random sample, the same for all."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Auto:
    """The result of a search.

    Attributes:
        recommender: The recommender to use, trained on all rows.
        record: What was tried and found: the values of `auto.json`.
        out: The folder.
        evaluations: Label -> evaluation on the test part: the chosen model, the best ones on valid, and the baselines.
            Empty if the search was over before this call.
    """

    recommender: Recommender
    record: Mapping[str, Any]
    out: Path
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(summary(self.record))


def auto(
    data: Any,
    out: str | Path,
    *,
    minutes: float = 30.0,
    task: Purpose | None = None,
    candidates: Sequence[str] | None = None,
    trials: int = 30,
    metric: MetricLike | None = None,
    seed: int = 0,
    protocol: Protocol | None = None,
    lists: Ragged | None = None,
    title: str = "a table",
    on_news: Callable[[str], None] | None = None,
    on_step: OnStep | None = None,
) -> Auto:
    """Find the recommender to use for some data, within a budget of time.

    The folder then holds the recommender (`Recommender.load(out)`), `auto.json`, `report.html` and `report.md`. A
    search that was stopped continues when it is called again with the same arguments; only time spent counts.

    Args:
        data: A `Split`, a `Dataset`, which is split by `default_split`, or what `Dataset.read` reads.
        out: Folder for the result: a new or empty one.
        minutes: Budget of wall-clock time for everything; baselines, the evaluation on test and the final training
            take place even if they exceed it.
        task: What the recommender is for: "lists" or "ratings". Defaults to what the data suggests.
        candidates: Names in `MODELS` to try, beside the baselines. Defaults to all that fit the data.
        trials: Most sampled settings of the best models to try, after the models as they come.
        metric: Metric on the valid part that chooses. Defaults to ndcg@10 for lists and rmse for ratings.
        seed: Seed of the split, of training and of sampled settings.
        protocol: How test is evaluated. Defaults to the usual metrics.
        lists: Candidate lists, for a protocol with given candidates.
        title: Name of the data, for the report.
        on_news: Called with one line after each step.
        on_step: As in `palate.training.train_run.TrainRun`.

    Raises:
        ConfigError: An argument is out of range, or the folder holds another search.
        DataError: The data has too few rows, or a part without rows.
        ArtifactError: The folder holds something else, or cannot be written.
        MissingExtra: matplotlib, which the report needs, is not installed.
    """
    check_budget(minutes, trials)
    whole = data if isinstance(data, (Dataset, Split)) else Dataset.read(data)
    parts = whole if isinstance(whole, Split) else _split(whole, seed)
    for name in ("valid", "test"):
        if not len(getattr(parts, name)):
            raise DataError(f"the {name} part of the split has no rows; hold out a share for it")
    purpose, why = choose_task(parts) if task is None else (task, "you asked for it")
    check_task(purpose, parts.train)
    (name,) = metric_names([metric or ("rmse" if purpose == "ratings" else "ndcg@10")])
    _check_metric(name, purpose)
    protocol = protocol or Protocol(metrics=METRICS_BY_DEFAULT)
    protocol = replace(protocol, metrics=tuple(dict.fromkeys((name, *protocol.metrics))))
    found, left_out = find_candidates(parts.train, purpose, 60 * minutes, candidates)
    place = Path(out)
    conditions: dict[str, Any] = {"table": _fingerprint(parts), "minutes": minutes, "task": purpose, "metric": name}
    conditions |= {"candidates": None if candidates is None else ", ".join(candidates), "trials": trials}
    conditions |= {"seed": seed, "protocol": protocol.to_dict()}
    if claim(place, conditions):
        return _stored(place)
    say = on_news or (lambda line: None)
    choice = task is None and parts.train.rating is not None
    say(f"for {purpose}, because {why}" + (f"; {OTHERWISE[purpose]}" if choice else ""))
    say(f"candidates: {', '.join(candidate.model for candidate in found)}")
    valid = sample_users(parts.valid, MAX_JUDGED, seed)
    aim = Task(train=parts.train, valid=valid, metric=name, seed=seed, say=say, on_step=on_step)
    about = {"title": title, "minutes": minutes, "trials": trials, "conditions": conditions, "left_out": left_out}
    about |= {"task": {"name": purpose, "why": why}, "metric": name}
    with try_lock(search_folder(place), "search") as free:
        if not free:
            raise ConfigError(f"another process works in {search_folder(place)}; wait for it, or name another folder")
        return _searched(place, aim, parts, found, about, (protocol, lists))


def _searched(
    out: Path,
    aim: Task,
    parts: Split,
    candidates: list[Candidate],
    about: dict[str, Any],
    conditions: tuple[Protocol, Ragged | None],
) -> Auto:
    """Search, evaluate, refit and write the folder."""
    folder = search_folder(out)
    state = State(folder, aim.build)
    with Clock(folder / "clock.json", 60 * about["minutes"]) as clock:
        users = [max(len(part.active_users), 1) for part in (parts.test, aim.valid)]
        race = Race(aim, state, clock, candidates, finish=users[0] / users[1])
        race.search(about["trials"])
        searched = state.decide("searched", lambda: clock.spent)
        if not race.final():
            faults = [f"{run.candidate.label}: {run.fault}" for run in race.runs if run.fault]
            raise ConfigError.faults("no candidate could be trained", faults)
        aim.say("the search is over: blending the best, and choosing")
        verdict = choose(race)
        blended = state.decide("blended", lambda: clock.spent)
        aim.say(f"{verdict.winner.label} is chosen; evaluating it on test")
        evaluations = judge(race, verdict, parts, *conditions)
        record = about | {"searched": searched, "leaders": state.decisions.get("leaders")}
        record |= _record(race, verdict, evaluations, parts, blended)
        aim.say(f"training {verdict.winner.label} anew on all {record['data']['rows']:,} rows")
        final = refitted(recommender(parts, verdict.winner), on_step=aim.on_step)
        state.decide(SAVING, lambda: True)
        final.save(out)
        record["spent"] = clock.spent
        _write(out, record, verdict, evaluations, parts)
    shutil.rmtree(folder)
    return Auto(recommender=final, record=record, out=out, evaluations=evaluations)


def _record(
    race: Race, verdict: Verdict, evaluations: Mapping[str, Evaluation], parts: Split, blended: float
) -> dict[str, Any]:
    """What auto.json holds of the race and the verdict."""
    winner, best, metric = verdict.winner, verdict.best, race.task.metric
    baselines = [run.candidate.label for run in race.runs if run.candidate.tier == BASELINE]
    baselines = [label for label in baselines if label in evaluations and label != winner.label]
    against = ""
    if winner.tier != BASELINE and baselines:
        top = max(baselines, key=lambda label: race.task.sign * evaluations[label][metric].value)
        pair = {winner.label: evaluations[winner.label], top: evaluations[top]}
        against = compare(pair, metric).differences[0].verdict
    difference = None if verdict.difference is None else vars(verdict.difference)
    blend = verdict.blend
    return {
        "winner": {
            "label": winner.label,
            "model": winner.name,
            "kind": TIERS[winner.tier],
            "weights": dict(winner.weights),
            "config": to_dict(winner.model.config),
            "training": to_dict(winner.training),
        },
        "best_on_valid": {"label": best.label, "value": best.valid[metric].value},
        "difference": difference,
        "blend": None
        if blend is None
        else {"value": blend.valid[metric].value, "weights": dict(blend.weights), "ended": blended},
        "against_baseline": against,
        "test": {label: _estimates(one) for label, one in evaluations.items()},
        "tried": [_run(run) for run in race.runs],
        "data": {
            "rows": sum(len(part) for part in (parts.train, parts.valid, parts.test)),
            "train": len(parts.train),
            "valid": len(parts.valid),
            "test": len(parts.test),
            "valid_users": len(race.task.valid.active_users),
        },
        "notes": list(parts.notes),
    }


def _run(run: Run) -> dict[str, Any]:
    candidate = run.candidate
    return {
        "label": candidate.label,
        "model": candidate.model,
        "number": candidate.number,
        "kind": TIERS[candidate.tier],
        "settings": {**candidate.config, **{f"training.{name}": v for name, v in candidate.training.items()}},
        "status": run.status,
        "value": run.value,
        "epochs": run.epochs,
        "most_epochs": candidate.epochs,
        "seconds": run.seconds,
        "ended": run.ended,
        "chosen": run.chosen,
        "fault": run.fault,
        "config": run.config,
        "training": run.training,
    }


def _estimates(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    return {metric: to_dict(estimate) for metric, estimate in evaluation.estimates.items()}


def _write(
    out: Path, record: dict[str, Any], verdict: Verdict, evaluations: Mapping[str, Evaluation], parts: Split
) -> None:
    """Write reports and results; the last file says that the folder is complete."""
    label = verdict.winner.label
    write_measured(out, label, evaluations)
    content = report.Report(
        title=f"palate auto: {record['title']}",
        evaluations=evaluations,
        records={label: verdict.winner.records} if verdict.winner.records else {},
        metric=record["metric"],
        baseline=label,
        notes=parts.notes,
        opening=tuple(opening(record)),
    )
    report.save(content, out)
    values = {"format": FORMAT, "palate": palate.__version__, **record}
    write_whole(out / RESULT, json.dumps(values, indent=1, default=float) + "\n")


def _stored(out: Path) -> Auto:
    """The result of a search that is over."""
    record = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if record.get("format") != FORMAT:
        raise ConfigError(f"{out / RESULT} has format {record.get('format')!r}, and this version reads {FORMAT}")
    return Auto(recommender=Recommender.load(out), record=record, out=out)


def _split(data: Dataset, seed: int) -> Split:
    """The default split of a data set that is large enough for three parts."""
    check_size(data)
    name, reason = default_split(data)
    parts = split_dataset(data, name, seed=seed)
    return replace(parts, notes=((reason,) if reason else ()) + parts.notes)


def check_size(data: Dataset) -> None:
    """Refuse a table that is too small to choose by.

    Raises:
        DataError: It has too few rows or users.
    """
    if len(data) < MIN_ROWS or data.n_users < MIN_USERS:
        raise DataError(
            f"the table has {len(data)} rows of {data.n_users} users, and auto needs at least {MIN_ROWS} rows of "
            f"{MIN_USERS} users to choose by; train popularity, or collect more"
        )


def check_budget(minutes: float, trials: int) -> None:
    """Refuse a budget without time, and a search that would end without its report.

    Raises:
        ConfigError: A number is out of range.
        MissingExtra: matplotlib, which the report needs, is not installed.
    """
    if not 0 < minutes < float("inf"):
        raise ConfigError(f"minutes = {minutes:g} is out of range; give a number above 0, for example 30")
    if trials < 0:
        raise ConfigError(f"trials = {trials} is out of range; give 0 or more")
    require("matplotlib", "the report needs matplotlib, which is not installed", "plots")


def _check_metric(metric: str, task: Purpose) -> None:
    kind, _ = parse([metric])[metric]
    if kind.better is None or kind.source == "catalogue":
        raise ConfigError(f"metric = {metric!r} cannot choose a model; use an accuracy metric such as ndcg@10 or rmse")
    if (kind.source == "ratings") != (task == "ratings"):
        raise ConfigError(
            f"metric = {metric!r} does not measure {task}; leave it out, or give the task that it measures"
        )


def _fingerprint(parts: Split) -> str:
    """What a search depends on besides its settings: the rows of all parts, and the features."""
    features = json.dumps(to_dict(parts.train.feature_spec), sort_keys=True, default=str)
    found = [part.fingerprint for part in (parts.train, parts.valid, parts.test)]
    return hashlib.sha256("".join([*found, features]).encode()).hexdigest()[:16]
