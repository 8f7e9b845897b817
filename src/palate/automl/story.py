"""What a search did, from the values of auto.json: plain sentences, a table of what was tried, a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from palate.automl.candidates import in_words
from palate.automl.catalogue import TIERS
from palate.evaluation.metrics import METRICS
from palate.evaluation.plots import COLOURS, INK, PALE, panels, to_png
from palate.evaluation.render import Block, Heading, Picture, Points, Table, Text
from palate.evaluation.result import number
from palate.evaluation.statistics import FEW_USERS

Record = Mapping[str, Any]
STATES = {
    "finished": "trained to its end",
    "dropped": "dropped in a halving",
    "stopped": "stopped, time was spent",
    "failed": "failed",
}


def summary(record: Record) -> list[str]:
    """What won, by how much, and why it was taken, a sentence or two each."""
    return [*_winner(record), *_choice(record), *_search(record)]


def bigger_budget(record: Record) -> list[str]:
    """What more time might change."""
    as_come = [run for run in record["tried"] if not run["number"]]
    lines = []
    if waiting := [run["label"] for run in as_come if run["status"] == "waiting"]:
        lines.append(f"Not started, because the time was spent: {', '.join(waiting)}.")
    for status, why in (("stopped", "stopped when the time was spent"), ("dropped", "dropped, in the worse half")):
        some = [_so_far(run) for run in as_come if run["status"] == status]
        if some:
            lines.append(f"Not trained to their end ({why}): {'; '.join(some)}.")
    if long := [name for name, why in record["left_out"].items() if "longer than the budget" in why]:
        lines.append(f"Not tried, because they would take longer than the budget: {', '.join(long)}.")
    done = [run for run in record["tried"] if run["number"] and run["status"] != "waiting"]
    if record["trials"] and record["leaders"] is None:
        lines.append(f"None of {record['trials']} sampled settings were tried; more time tries them.")
    elif record["leaders"] and len(done) < record["trials"]:
        lines.append(f"{len(done)} of {record['trials']} sampled settings were tried; more time tries the others.")
    if not lines:
        more = "A larger --trials tries more settings."
        if record["leaders"] == []:
            more = "No settings were sampled, because the best models choose theirs by themselves."
        lines.append(
            f"Everything that fits the data was tried to its end in {in_words(record['searched'])}, so that more time "
            f"alone changes nothing. {more}"
        )
    estimate = record["test"][record["winner"]["label"]][record["metric"]]
    half = (estimate["high"] - estimate["low"]) / 2
    if half > 0:  # not NaN either
        lines.append(
            f"The test part tells {record['metric']} to within about {number(half)}: a smaller gain would not be seen "
            "on this table, however long the search."
        )
    return lines


def opening(record: Record) -> Iterator[Block]:
    """The first sections of the report."""
    for line in summary(record):
        yield Text(line)
    yield Heading("What was tried")
    yield Text(
        f"In the order in which they ended. Values are {record['metric']} on the valid part, which chose. The test "
        "part was not used."
    )
    yield _table(record)
    yield Picture("search", "The metric on valid of each candidate, by the time when it ended", _plot(record))
    chosen = [f"{run['label']}: {run['chosen']}" for run in record["tried"] if run["chosen"] and not run["number"]]
    failed = [f"{run['label']} failed: {run['fault']}" for run in record["tried"] if run["fault"]]
    if notes := [*failed, *(f"{name} was not tried: {why}" for name, why in record["left_out"].items()), *chosen]:
        yield Points(notes)
    yield Heading("What a bigger budget might change")
    yield Points(bigger_budget(record))


def _winner(record: Record) -> Iterator[str]:
    winner, metric = record["winner"], record["metric"]
    found = record["test"][winner["label"]][metric]
    members = [f"{label} ({weight:.2f})" for label, weight in winner["weights"].items()]
    chosen = f"a blend of {', '.join(members[:-1])} and {members[-1]}" if members else winner["label"]
    yield (
        f"The recommender is {chosen}, trained anew on all {record['data']['rows']:,} rows with the settings that were "
        "chosen."
    )
    yield (
        f"On the test part, which was used once, its {metric} is {number(found['value'])} "
        f"(95 % interval {number(found['low'])} to {number(found['high'])})."
    )
    if record["against_baseline"]:
        yield f"Against the best baseline: {record['against_baseline']}."
    else:
        yield (
            f"It is a baseline itself: no other model was better on the valid part (where it has "
            f"{number(_on_valid(record, winner['label']))}) by more than the uncertainty. More rows help more than "
            "more time."
        )
    if (users := record["data"]["valid_users"]) < FEW_USERS:
        yield f"The valid part has {users} users, which is too few to tell good models apart; another may be as good."


def _choice(record: Record) -> Iterator[str]:
    winner, best, metric = record["winner"], record["best_on_valid"], record["metric"]
    if record["difference"] is not None:
        low, high = record["difference"]["low"], record["difference"]["high"]
        yield (
            f"On the valid part {best['label']} was best ({metric} {number(best['value'])}), but {winner['label']} is "
            f"simpler ({winner['kind']}) and within the uncertainty: {best['label']} minus {winner['label']} is "
            f"{record['difference']['value']:+.4f} (95 % interval {low:+.4f} to {high:+.4f})."
        )
    elif record["against_baseline"]:
        yield (
            f"It was best on the valid part ({metric} {number(best['value'])}), and no simpler kind of model was "
            "within the uncertainty."
        )


def _on_valid(record: Record, label: str) -> float:
    return float(next(run["value"] for run in record["tried"] if run["label"] == label))


def _search(record: Record) -> Iterator[str]:
    tried = [run for run in record["tried"] if run["status"] != "waiting"]
    sampled = sum(1 for run in tried if run["number"])
    task = {"lists": "lists of items", "ratings": "predicted ratings"}[record["task"]["name"]]
    yield (
        f"Candidates were chosen for {task}, because {record['task']['why']}. "
        f"{len(tried) - sampled} models were tried as they come, and {sampled} sampled settings of the best. "
        f"The search took {in_words(record['searched'])}, and everything together {in_words(record['spent'])} of a "
        f"budget of {in_words(60 * record['minutes'])}."
    )


def _so_far(run: Record) -> str:
    """How far an unfinished run is."""
    if run["value"] is None:
        return f"{run['label']} before its first epoch"
    return f"{run['label']} after {run['epochs']} of at most {run['most_epochs']} epochs, at {number(run['value'])}"


def _table(record: Record) -> Table:
    """A row for each candidate that was tried."""
    tried = sorted((run for run in record["tried"] if run["status"] != "waiting"), key=lambda run: run["ended"])
    rows, values = [], []
    for run in tried:
        epochs = f"{run['epochs']:,}" if run["most_epochs"] else "-"
        value = "-" if run["value"] is None else number(run["value"])
        rows.append([run["label"], run["kind"], STATES[run["status"]], epochs, f"{run['seconds']:.1f}", value])
        values.append(run["value"])
    if (blend := record["blend"]) is not None:
        rows.append(["blend", TIERS[-1], "made of the best", "-", "-", number(blend["value"])])
        values.append(blend["value"])
    lower = METRICS[record["metric"].partition("@")[0]].better == "lower"
    known = [value for value in values if value is not None]
    best = values.index(min(known) if lower else max(known))
    header = ["candidate", "kind", "state", "epochs", "seconds", f"{record['metric']} on valid"]
    return Table(header, rows, frozenset({(best, len(header) - 1)}))


def _plot(record: Record) -> bytes:
    """The metric on valid of each candidate by the time when it ended, and the best so far."""
    figure, axes = panels(1, 8.4, 4.4)
    axis, metric = axes[0], record["metric"]
    better = METRICS[metric.partition("@")[0]].better
    runs = sorted((run for run in record["tried"] if run["value"] is not None), key=lambda run: run["ended"])
    for tier, kind in enumerate(TIERS):
        some = [run for run in runs if run["kind"] == kind]
        for marker, part, word in (("o", 0, ""), ("x", 1, ", sampled settings")):
            points = [run for run in some if bool(run["number"]) == bool(part)]
            if points:
                x, y = [run["ended"] / 60 for run in points], [run["value"] for run in points]
                axis.scatter(x, y, s=30, marker=marker, color=COLOURS[tier], label=kind + word, zorder=3)
    sign = -1 if better == "lower" else 1
    so_far: list[float] = []
    for run in runs:
        so_far.append(sign * max([sign * run["value"]] + [sign * value for value in so_far[-1:]]))
    x = [run["ended"] / 60 for run in runs]
    axis.plot(x, so_far, drawstyle="steps-post", color=PALE, linewidth=1.4, label="best so far", zorder=1)
    if record["blend"] is not None:
        at = record["blend"]["ended"] / 60
        axis.scatter([at], [record["blend"]["value"]], s=80, marker="*", color=COLOURS[6], label="blend", zorder=4)
    better_than = zip(runs, [None, *so_far], strict=False)
    bests = [run for run, before in better_than if before is None or sign * (run["value"] - before) > 0]
    gap = 0.06 * max(run["ended"] for run in runs)
    for run, after in zip(bests, [*bests[1:], None], strict=True):
        if after is None or after["ended"] - run["ended"] > gap:  # of several close together, the last is named
            place = (run["ended"] / 60, run["value"])
            axis.annotate(run["label"], place, xytext=(5, 5), textcoords="offset points", fontsize=8, color=INK)
    axis.margins(x=0.06, y=0.14)
    axis.set_xlabel("minutes spent", fontsize=9)
    axis.set_ylabel(f"{metric} on valid", fontsize=9)
    axis.set_title(f"What was tried ({better} is better)", fontsize=10, loc="left")
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return to_png(figure, axes)
