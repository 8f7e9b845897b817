"""`palate tune MODEL DATA` and `palate compare DATA --models a,b,c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from palate.cli.options import Beside, Flat, Reading, Splitting, prepared
from palate.cli.show import table
from palate.config import Training
from palate.errors import ConfigError
from palate.evaluation import report
from palate.evaluation.protocols import Prepared
from palate.evaluation.report import Report
from palate.tune import Contest, Trial
from palate.tune import contest as run_contest
from palate.tune import tune as run_tune


def tune(
    model: str,
    data: str,
    *,
    trials: int = 20,
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    beside: Annotated[Beside, Flat] = Beside(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training = Training(),  # noqa: B008
    seed: int = 0,
) -> None:
    """Search a model's settings, judged on the valid part; `palate train MODEL --config` takes what is found.

    Args:
        model: Name of a model (`palate train --help` lists them).
        data: Name of a data set (`palate data sources`), a file, or a query with --connection.
        trials: Sets of settings to try in all; a search that was stopped, or that others share, counts theirs.
        out: Folder for the study and the best settings.
        seed: Of the search and of the split.
    """
    ready = _ready(data, reading, beside, splitting, seed)
    parts = ready.parts
    if splitting.protocol is not None and training.monitor == "auto":
        training = replace(training, monitor=ready.protocol.metrics[0])

    def told(trial: Trial) -> None:
        print(f"  trial {trial.number + 1}: {trial.state if trial.value is None else f'{trial.value:.4f}'}")

    found = run_tune(
        parts.train, parts.valid, model, trials, storage=out / "study.db", training=training, seed=seed, on_trial=told
    )
    found.save(out / f"{model}.json")
    print(f"best {found.metric} on valid: {found.value:.4f} of {len(found.trials)} trials")
    print(f"  palate train {model} {data} --config {out / f'{model}.json'} --out RUN")


def compare(
    data: str,
    *,
    models: str = "neumf,mf,ease,ials,itemknn,popularity",
    budget: int = 10,
    seeds: int = 3,
    metric: str | None = None,
    out: Path,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
    beside: Annotated[Beside, Flat] = Beside(),  # noqa: B008
    splitting: Annotated[Splitting, Flat] = Splitting(),  # noqa: B008
    training: Training | None = None,
    seed: int = 0,
) -> None:
    """Tune several models with one budget on the valid part, judge them once on the test part, report the differences.

    Args:
        data: Name of a data set (`palate data sources`), a file, or a query with --connection.
        models: Names, with commas between.
        budget: Sets of settings each model may try.
        seeds: Final runs of each model.
        metric: The headline, which also chooses settings and epochs; default: the protocol's first, or ndcg@10.
        out: Folder for study, results and report; the same command goes on where it was stopped.
        seed: Of the split.
    """
    if seeds < 1 or budget < 1:
        raise ConfigError(f"--seeds {seeds} --budget {budget}: both must be at least 1")
    ready = _ready(data, reading, beside, splitting, seed)
    parts, protocol = ready.parts, ready.protocol
    metric = metric or protocol.metrics[0]
    if splitting.protocol is None:
        protocol = replace(protocol, metrics=tuple(dict.fromkeys((metric, *protocol.metrics))))
    for note in parts.notes:
        print(f"  {note}")
    found = run_contest(
        parts,
        models.split(","),
        budget,
        out,
        protocol=protocol,
        candidates=ready.candidates,
        training=training,
        seeds=range(seeds),
        metric=metric,
        on_news=print,
    )
    records = {name: entry.epochs for name, entry in found.entries.items()}
    notes = (*parts.notes, *(f"{name} could not take part: {fault}" for name, fault in found.faults.items()))
    told = Report(
        title=f"{', '.join(found.entries)} on {data}",
        evaluations=found.evaluations,
        records=records,
        metric=metric,
        notes=(*notes, *traces(found)),
    )
    print("\n" + results(found, list(told.ordered())))
    for difference in found.comparison().differences if len(found.entries) > 1 else ():
        print(difference.verdict)
    report.save(told, out)
    print(f"report: {out / 'report.html'}")


def results(found: Contest, names: Sequence[str]) -> str:
    """The contest as an aligned table, in the order of `names`."""
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
    """One line for each model: what its trials gave on valid, in order."""
    lines = []
    for name, entry in found.entries.items():
        values = [trial.state if trial.value is None else f"{trial.value:.4f}" for trial in entry.tuned.trials]
        lines.append(f"tuning of {name} ({entry.tuned.metric} on valid): {', '.join(values)}")
    return lines


def _ready(data: str, reading: Reading, beside: Beside, splitting: Splitting, seed: int) -> Prepared:
    _, ready = prepared(data, reading, beside, splitting, seed)
    if ready is None or not len(ready.parts.valid):
        raise ConfigError("settings are chosen on the valid part: name a --split, with a --valid above 0")
    return ready
