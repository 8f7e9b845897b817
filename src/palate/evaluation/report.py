"""Reports of evaluated models, as Markdown with pictures beside it and as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palate.errors import ConfigError
from palate.evaluation.compare import Comparison, compare
from palate.evaluation.metrics import METRICS
from palate.evaluation.plots import concentration, learning_curves, metric_bars, training_runs
from palate.evaluation.render import Block, Heading, Picture, Points, Table, Text, write
from palate.evaluation.result import Estimate, Evaluation, number
from palate.training.train_run import Epoch, best_epoch

BARS = ("ndcg", "rmse", "recall", "coverage", "gini", "novelty")
"""Metrics shown as bars after the headline metric, if they were measured."""
TABLES = {"accuracy": ("targets",), "ratings": ("ratings",), "beyond accuracy": ("lists", "catalogue")}
"""Tables of results: heading of the first column, and the sources of their metrics."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The content of a report.

    Attributes:
        title: Heading of the report.
        evaluations: Name of a model -> its evaluation; all under the same protocol.
        records: Name of a model -> its epochs, for learning curves.
        metric: The headline metric, by which models are ordered. Defaults to the first of the protocol.
        baseline: Compare every model with this one. Defaults to comparing the best model with every other one.
        notes: What a reader must know about the data, for example `Split.notes`.
        opening: Blocks to show before the results.

    Raises:
        ConfigError: There are no evaluations, or their protocols differ.
    """

    title: str
    evaluations: Mapping[str, Evaluation]
    records: Mapping[str, Sequence[Epoch]] = field(default_factory=dict)
    metric: str | None = None
    baseline: str | None = None
    notes: tuple[str, ...] = ()
    opening: tuple[Block, ...] = ()

    def __post_init__(self) -> None:
        hashes = {name: e.protocol.hash for name, e in self.evaluations.items()}
        if len(set(hashes.values())) != 1:
            listed = ", ".join(f"{name} {value}" for name, value in hashes.items()) or "none"
            raise ConfigError(f"a report needs evaluations under one protocol, and got {listed}")

    @property
    def headline(self) -> str:
        """The metric by which models are ordered."""
        return self.metric or next(iter(self.evaluations.values())).protocol.metrics[0]

    def ordered(self) -> dict[str, Evaluation]:
        """The evaluations, best first by the headline metric; models without it come last."""
        lower = METRICS[self.headline.partition("@")[0]].better == "lower"

        def key(name: str) -> tuple[bool, float]:
            estimate = self.evaluations[name].estimates.get(self.headline)
            value = 0.0 if estimate is None else estimate.value
            return estimate is None, value if lower else -value

        return {name: self.evaluations[name] for name in sorted(self.evaluations, key=key)}


def save(report: Report, folder: str | Path) -> None:
    """Write `report.html` (self-contained), `report.md` and its pictures.

    Args:
        report: The content.
        folder: Where to write; created if it does not exist.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    write(Path(folder), "report", report.title, list(content(report)))


def content(report: Report, pictures: bool = True) -> Iterator[Block]:
    """The report, block by block.

    Args:
        report: The content.
        pictures: Whether to draw plots (needs matplotlib).
    """
    evaluations = report.ordered()
    first = next(iter(evaluations.values()))
    metrics = [m for m in first.protocol.metrics if any(m in e.estimates for e in evaluations.values())]
    whole = first.slices["all"]
    about = Text(
        f"{whole.rows:,} rows of {whole.users:,} users. Protocol {first.protocol.hash}. Values are means with 95 % "
        "bootstrap intervals over users."
    )
    yield from (*report.opening, Heading("Results"), about) if report.opening else (about, Heading("Results"))
    yield from _results(evaluations, metrics, report.headline)
    if any(m.startswith("coverage@") for m in metrics):
        yield Text(f"Coverage is the share of the catalogue of {len(first.exposure):,} items that is in some list.")
    if pictures:
        kinds = [m for kind in BARS for m in metrics if m.partition("@")[0] == kind]
        bars = list(dict.fromkeys([report.headline, *kinds]))[: len(BARS)]
        yield Picture("metrics", "Metrics of all models, with intervals", metric_bars(evaluations, bars))
    verdicts = list(_verdicts(report, evaluations, metrics))
    if verdicts:
        yield Heading("Comparison")
        yield Text(
            "Differences are paired over users. A difference is significant if its p value is below 0.05: from a "
            "sign-flip test, which assumes that differences are symmetric around 0 if the models are equal, adjusted "
            "for all comparisons of a metric (Holm). The bootstrap intervals are not adjusted."
        )
        yield Points(verdicts)
    if len(first.slices) > 1:
        yield Heading("Known and new users and items")
        yield from _slices(evaluations, report.headline)
    if any(report.records.values()):
        yield from _training(report, pictures)
    if first.exposure.sum():
        yield Heading("Recommended items")
        yield _exposure(evaluations)
        if pictures:
            yield Picture("concentration", "Share of recommendations by share of items", concentration(evaluations))
    yield Heading("Protocol")
    yield from _protocol(report, evaluations)


def _results(evaluations: Mapping[str, Evaluation], metrics: Sequence[str], headline: str) -> Iterator[Table]:
    """All results, one table for each kind of metric; the headline is the first column of the first table."""
    metrics = sorted(metrics, key=lambda metric: metric != headline)
    kinds = [
        next(k for k, sources in TABLES.items() if METRICS[m.partition("@")[0]].source in sources) for m in metrics
    ]
    for kind in dict.fromkeys(kinds):
        shown = [metric for metric, its in zip(metrics, kinds, strict=True) if its == kind]
        having = {name: e for name, e in evaluations.items() if any(metric in e.estimates for metric in shown)}
        yield _numbers(kind, having, shown)


def _numbers(corner: str, evaluations: Mapping[str, Evaluation], metrics: Sequence[str]) -> Table:
    """A row for each model, a column for each metric; the best value of each column is marked."""
    names = list(evaluations)
    rows = [[name, *(_cell(e.estimates.get(metric)) for metric in metrics)] for name, e in evaluations.items()]
    best = set()
    for column, metric in enumerate(metrics, 1):
        better = METRICS[metric.partition("@")[0]].better
        having = {name: e.estimates[metric].value for name, e in evaluations.items() if metric in e.estimates}
        if better and len(having) > 1:
            first = (max if better == "higher" else min)(having, key=lambda name: having[name])
            best.add((names.index(first), column))
    return Table([corner, *metrics], rows, frozenset(best))


def _verdicts(report: Report, evaluations: Mapping[str, Evaluation], metrics: Sequence[str]) -> Iterator[str]:
    """Comparisons on the headline metric and on rmse."""
    for metric in dict.fromkeys([report.headline, *(m for m in metrics if m == "rmse")]):
        measured = {name: e for name, e in evaluations.items() if metric in e.values}
        baseline = report.baseline if report.baseline in measured else None
        if len(measured) > 1:
            yield from _relevant(compare(measured, metric, baseline), measured, baseline)


def _relevant(comparison: Comparison, measured: Mapping[str, Evaluation], baseline: str | None) -> Iterator[str]:
    """All comparisons with a baseline; without one those of the best model, although p values count all pairs."""
    sign = -1 if METRICS[comparison.metric.partition("@")[0]].better == "lower" else 1
    best = max(measured, key=lambda name: sign * measured[name].estimates[comparison.metric].value)
    for d in comparison.differences:
        if baseline is not None or best in (d.first, d.second):
            yield d.verdict


def _slices(evaluations: Mapping[str, Evaluation], headline: str) -> Iterator[Block]:
    """Sizes of the slices, and the headline metric and rmse on each."""
    first = next(iter(evaluations.values()))
    yield Points([f"{_words(name)}: {part.rows:,} rows of {part.users:,} users" for name, part in first.slices.items()])
    for metric in dict.fromkeys([headline, "rmse"]):
        having = {name: e for name, e in evaluations.items() if metric in e.estimates}
        if having:
            cells = [
                [name, *(_cell(e.slices[s].estimates.get(metric)) for s in first.slices)] for name, e in having.items()
            ]
            yield Table([metric, *map(_words, first.slices)], cells)


def _training(report: Report, pictures: bool) -> Iterator[Block]:
    """Learning curves: the kept epoch of each model (of each member of a blend), and the curves."""
    yield Heading("Learning curves")
    yield Text(
        "The training and the validation loss of a model are the same quantity: the training loss is the mean during "
        "the epoch, the validation loss is measured after it, without dropout."
    )
    yield Points([_kept_epoch(name, epochs) for name, epochs in training_runs(report.records).items()])
    if pictures:
        alt = "Training and validation loss, and validation metric, by epoch"
        yield Picture("learning", alt, learning_curves(report.records))


def _kept_epoch(name: str, epochs: Sequence[Epoch]) -> str:
    best = best_epoch(epochs)
    kept, why = (epochs[-1], " (the last; there was no validation)") if best is None else (best, "")
    losses = f"train loss {number(kept.loss)}"
    losses += f", valid loss {number(kept.valid['loss'])}" if "loss" in kept.valid else ""
    metrics = [f", valid {metric} {number(value)}" for metric, value in kept.valid.items() if metric != "loss"]
    return f"{name}: epoch {kept.epoch} of {len(epochs)} kept{why}; {losses} ({kept.loss_name}){''.join(metrics)}"


def _exposure(evaluations: Mapping[str, Evaluation]) -> Table:
    """How many items each model recommends, and how popular they are."""
    rows = []
    for name, e in evaluations.items():
        listed = e.exposure.sum()
        top = sorted(e.exposure.tolist(), reverse=True)[: max(1, len(e.exposure) // 100)]
        mean = float((e.exposure * e.popularity).sum() / max(listed, 1))
        rows.append([name, f"{(e.exposure > 0).sum():,}", f"{sum(top) / max(listed, 1):.1%}", number(mean)])
    items = len(next(iter(evaluations.values())).exposure)
    header = [
        "model",
        f"distinct items (of {items:,})",
        "share of the top 1 % of items",
        "mean training interactions",
    ]
    return Table(header, rows)


def _protocol(report: Report, evaluations: Mapping[str, Evaluation]) -> Iterator[Block]:
    """The protocol, times and routes, and notes."""
    first = next(iter(evaluations.values()))
    protocol = first.protocol
    fields = {name: value for name, value in protocol.to_dict().items() if value not in ("", [], None)}
    lines = [f"{_words(name)}: {_plain(value)}" for name, value in fields.items()]
    yield Points([f"protocol hash: {protocol.hash}", *lines, *report.notes])
    routes = [r for r in dict.fromkeys(r for e in evaluations.values() for r in e.routes) if _uses(evaluations, r)]
    rows = []
    for name, e in evaluations.items():
        seconds = [f"{e.seconds[s]:.1f}" if s in e.seconds else "-" for s in ("fit", "predict")]
        rows.append([name, *seconds, *(f"{e.routes.get(route, 0.0):.1%}" for route in routes)])
    yield Table(["model", "fit, s", "predict, s", *(f"route {route}" for route in routes)], rows)
    notes = dict.fromkeys(note for e in evaluations.values() for note in e.notes)
    if notes:
        yield Points(list(notes))


def _uses(evaluations: Mapping[str, Evaluation], route: str) -> bool:
    """Whether a model answers some users by a route."""
    return any(e.routes.get(route, 0.0) > 0 for e in evaluations.values())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(" = ".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    return str(value)


def _cell(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"
