"""`palate tune MODEL DATA` and `palate compare DATA --models a,b,c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from palate.cli import Flat, suggested
from palate.cli.inputs import Reading, SideTables, Splitting, prepared
from palate.cli.show import table
from palate.config import Training
from palate.errors import ConfigError
from palate.evaluation import report
from palate.evaluation.metrics import METRICS
from palate.evaluation.protocols import Prepared
from palate.evaluation.report import Report
from palate.extras import require
from palate.models import MODELS
from palate.recommender.artifact import uses_training
from palate.tune import Contest, Trial
from palate.tune import contest as run_contest
from palate.tune import tune as run_tune
from palate.tune.locks import locked

RECENT, TIME_SPLITS = "recent-popularity", ("temporal", "sessions")
"""The baseline of splits by time, and those splits."""
RATING_METRICS = [name for name, metric in METRICS.items() if metric.source == "ratings"]


def tune(
    model: str,
    data: str,
    *,
    trials: int = 20,
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Search a model's settings on the validation part. The result is a file for palate train MODEL --config.

    Args:
        model: Name of a model (palate train --help lists them).
        data: Name of a data set (palate data sources), a file, or a query with --connection.
        trials: Number of settings to try in all; those of earlier and of other processes count.
        out: Folder for the study and the best settings. The same command continues a search that was stopped; run
            twice at once, the two share the trials.
        seed: Seed of the search and of the split.
    """
    _refuse_training([model], training)
    require("optuna", "tuning needs Optuna, which is not installed", "tune")
    ready = _ready(data, reading, side_tables, splitting, seed)
    parts = ready.parts
    if splitting.protocol is not None and training.monitor == "auto":
        training = replace(training, monitor=ready.protocol.metrics[0])

    def show(trial: Trial) -> None:
        print(f"  trial {trial.number + 1}: {trial.state if trial.value is None else f'{trial.value:.4f}'}")

    found = run_tune(
        parts.train, parts.valid, model, trials, storage=out / "study.db", training=training, seed=seed, on_trial=show
    )
    found.save(out / f"{model}.json")
    print(f"best {found.metric} on valid: {found.value:.4f} of {len(found.trials)} trials")
    print(f"  {suggested('train', model, data, config=out / f'{model}.json', out=out / model)}")


def compare(
    data: str,
    *,
    models: str = "neumf,mf,ease,ials,itemknn,popularity",
    budget: int = 10,
    seeds: int = 3,
    metric: str | None = None,
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    side_tables: Annotated[SideTables, Flat] = SideTables(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training | None = None,
    seed: int = 0,
) -> None:
    """Tune several models with one budget on the validation part, evaluate them once on the test part, and compare.

    Args:
        data: Name of a data set (palate data sources), a file, or a query with --connection.
        models: Names, separated by commas.
        budget: Number of settings each model may try; 0 compares the models as they come.
        seeds: Number of final runs of each model.
        metric: Metric that is compared, and chooses settings and epochs. Defaults to the protocol's first, or ndcg@10.
        out: Folder for study, results and report. The same command continues a comparison that was stopped; run twice
            at once, the two share the work.
        seed: Seed of the split.
    """
    names = models.split(",")
    _refuse_training(names, training or Training())
    _check_budget(budget, seeds)
    ready = _ready(data, reading, side_tables, splitting, seed, tuned=budget > 0)
    parts, protocol = ready.parts, ready.protocol
    metric = metric or protocol.metrics[0]
    names += _recent_baseline(names, ready, metric)
    if splitting.protocol is None:
        protocol = replace(protocol, metrics=tuple(dict.fromkeys((metric, *protocol.metrics))))
    for note in parts.notes:
        print(f"  {note}")
    found = run_contest(
        parts,
        names,
        budget,
        out,
        protocol=protocol,
        candidates=ready.candidates,
        training=training,
        seeds=range(seeds),
        metric=metric,
        on_news=print,
    )
    _report(found, parts.notes, data, out)


def _report(found: Contest, notes: Sequence[str], data: str, out: Path) -> None:
    """Print the results and the verdicts, and write the report."""
    several = len(found.entries) > 1
    order = found.value_of_order() if several else None
    summary = Report(
        title=f"{', '.join(found.entries)} on {data}",
        evaluations=found.evaluations,
        records={name: entry.epochs for name, entry in found.entries.items()},
        metric=found.metric,
        notes=(*([order] if order else []), *notes, *traces(found)),
    )
    print("\n" + results(found, list(summary.ordered())))
    for difference in found.comparison().differences if several else ():
        print(difference.verdict)
    if order:
        print(order)
    with locked(out, "report"):  # of several processes the last one writes the same again
        report.save(summary, out)
    print(f"report: {out / 'report.html'}")


def _recent_baseline(names: Sequence[str], ready: Prepared, metric: str) -> list[str]:
    """The popularity of the last days, which every comparison of lists under a split by time shows."""
    by_time = ready.protocol.split in TIME_SPLITS and ready.parts.train.timestamp is not None
    if RECENT in names or not by_time or metric in RATING_METRICS:
        return []
    print(f"  {RECENT} takes part too: it is the baseline of splits by time")
    return [RECENT]


def results(found: Contest, names: Sequence[str]) -> str:
    """The results of a contest as an aligned table, in the order of `names`."""
    evaluations = found.evaluations
    measured = evaluations[names[0]].protocol.metrics
    usual = measured if len(measured) <= 5 else ("recall@10", "coverage@10", "gini@10", "novelty@10")
    columns = dict.fromkeys((found.metric, *usual))
    shown = [metric for metric in columns if metric in evaluations[names[0]].estimates]
    rows = []
    for name in names:
        entry, evaluation = found.entries[name], evaluations[name]
        times = [
            f"{evaluation.seconds['fit']:.1f}",
            f"{evaluation.seconds['predict']:.1f}",
            f"{entry.memory / 1e6:,.0f}",
        ]
        rows.append([name, *(str(evaluation.estimates[m]) for m in shown), *times])
    return table(["model", *shown, "fit s", "predict s", "peak MB"], rows)


def traces(found: Contest) -> list[str]:
    """One line for each model: why it could not take part, or the values of its trials on valid, in order."""
    lines = [f"{name} could not take part: {fault}" for name, fault in found.faults.items()]
    for name, entry in found.entries.items():
        if not entry.tuned.trials:
            lines.append(f"{name} was not tuned (budget 0): it has its default settings")
            continue
        values = [trial.state if trial.value is None else f"{trial.value:.4f}" for trial in entry.tuned.trials]
        lines.append(f"tuning of {name} ({entry.tuned.metric} on valid): {', '.join(values)}")
    return lines


def _refuse_training(models: Sequence[str], training: Training) -> None:
    """Refuse training options if no model takes gradient steps."""
    kinds = [MODELS[name] for name in models if name in MODELS]
    unused = [name for name, value in vars(training).items() if value != getattr(Training(), name)]
    flags = ", ".join(f"--training.{name.replace('_', '-')}" for name in unused if name not in ("seed", "monitor"))
    if kinds and flags and not any(map(uses_training, kinds)):
        raise ConfigError(f"{', '.join(models)} takes no gradient steps and so has no {flags}; leave it out")


def _check_budget(budget: int, seeds: int) -> None:
    """Refuse what cannot be, and what would fail after hours for want of a package.

    Raises:
        ConfigError: A number is out of range.
        MissingExtra: There is a budget without Optuna, or no matplotlib for the report.
    """
    if seeds < 1 or budget < 0:
        raise ConfigError(f"--seeds {seeds} --budget {budget}: give at least 1 seed, and a budget of 0 or more")
    if budget:
        need = f"--budget {budget} needs Optuna, which is not installed"
        require("optuna", need, "tune", "compare the models as they come with --budget 0")
    require("matplotlib", "the report needs matplotlib, which is not installed", "plots")


def _ready(
    data: str, reading: Reading, side_tables: SideTables, splitting: Splitting, seed: int, *, tuned: bool = True
) -> Prepared:
    _, ready = prepared(data, reading, side_tables, splitting, seed)
    if not tuned and ready is None:
        raise ConfigError("models are compared on the test part; name a --split other than none")
    if ready is None or (tuned and not len(ready.parts.valid)):
        raise ConfigError("settings are chosen on the valid part; name a --split, with a --valid above 0")
    return ready
