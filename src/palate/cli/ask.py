"""Questions to a saved run: `palate evaluate | recommend | add-items | similar`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
from cyclopts import Parameter

from palate import artifact
from palate.arrivals import people as people_of
from palate.arrivals import with_new_items
from palate.cli.options import PROTOCOL, Beside, Flat, Reading, Switch, dataset
from palate.cli.show import short, table
from palate.data.dataset import Dataset
from palate.data.given import read_candidates
from palate.data.read_side import read_columns
from palate.errors import ConfigError
from palate.evaluation.evaluate import evaluate as judge
from palate.evaluation.protocol import Protocol, given_candidates
from palate.models import MODELS
from palate.recommender import Recommender
from palate.routes import aligned
from palate.rules import Rules


def evaluate(
    run: Path,
    data: str | None = None,
    *,
    part: Literal["test", "valid"] = "test",
    metric: list[str] | None = None,
    candidates: Literal["full", "warm", "new"] | None = None,
    given: str | None = None,
    reading: Annotated[Reading, Flat] = Reading(),  # noqa: B008
) -> None:
    """Judge a trained recommender on the part it was not trained on, or on other data.

    Args:
        run: Folder that `palate train` or `Recommender.save` wrote.
        data: Other interactions with the same ids: a file, a data set's name, or a query. Default: the held-out part.
        part: Which held-out part.
        metric: A metric, for example ndcg@10; may be given several times. Default: the protocol's, or all that suit.
        candidates: What competes with what is to be found: all items, those that training saw (warm) or those that it
            did not (new); of other items nothing is to be found then. Default: the protocol's.
        given: File of held-out rows and candidates, for a run under the protocol ncf.
        reading: How DATA is read.
    """
    if data is not None:
        if candidates is not None:
            raise ConfigError("--candidates tells apart the items of a held-out part; leave out DATA, or the option")
        print(Recommender.load(run).evaluate(dataset(data, reading, Beside()), metric))
        return
    whole = artifact.read(run, MODELS)
    if part not in whole.parts or not len(whole.parts[part]):
        raise ConfigError(f"{run} holds no {part} part; name data to evaluate on: palate evaluate {run} DATA")
    held = aligned(whole.parts[part], whole.data)  # items may have been added since
    path = run / PROTOCOL
    how = Protocol.from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Protocol()
    lists = None
    if candidates is not None:
        how = replace(how, candidates=candidates)
    elif part == "test" and how.candidates == "given":
        if given is None:
            raise ConfigError(f"{run} was held out with given candidates; name their file: --given FILE")
        lists = given_candidates(held, read_candidates(given, held))
    elif how.candidates == "given":
        how = replace(how, candidates="full")
    print(judge(whole.model, held, metric, candidates=lists, protocol=how, name=whole.name))


def recommend(
    run: Path,
    *,
    user: list[str] | None = None,
    history: list[str] | None = None,
    features: Path | None = None,
    items: str | None = None,
    k: Annotated[int, Parameter(name="-k")] = 10,
    include_seen: Annotated[bool, Switch] = False,
    rules: Annotated[Rules, Flat] = Rules(),  # noqa: B008
    approximate: Annotated[bool, Switch] = False,
    explain: Annotated[bool, Switch] = False,
    json: Annotated[bool, Switch] = False,
    csv: Annotated[bool, Switch] = False,
) -> None:
    """Lists for known users, or for people of whom a history or attributes are given.

    Args:
        run: Folder that `palate train` or `Recommender.save` wrote.
        user: A user's id; may be given several times.
        history: In place of --user: item ids with commas between them, oldest first; may be given several times.
        features: In place of --user, or with a --history for each of its rows: table of people, in the columns of the
            table of users that the model learned from.
        items: Table of items that came after training, which are listed too; RUN stays as it is.
        k: List length.
        include_seen: List items of the history too.
        rules: What a list may hold and how it is re-ranked.
        approximate: Look at the likeliest part of a large catalogue only.
        explain: Say why, in a sentence for each item.
        json: Print JSON instead of tables.
        csv: Print CSV instead of tables.
    """
    if (user is None) == (history is None and features is None):
        raise ConfigError("give either --user ID, or --history ID,ID or --features FILE or both")
    recommender = _with_items(Recommender.load(run), items)
    data = recommender.data
    rules = replace(rules, exclude=tuple(data.items.parse(str(one)) for one in rules.exclude))
    how: dict[str, Any] = {"k": k, "exclude_seen": not include_seen, "rules": rules}
    how |= {"approximate": approximate, "explain": explain}
    if user is not None:
        people = [data.users.parse(one) for one in user]
        found = recommender.recommend(people, **how)
        names = {person: f"user {person}" for person in people}
    else:
        attributes = None if features is None else read_columns(features)
        if attributes is not None:
            _say(people_of(attributes, recommender.model.spec).notes)
        given = None if history is None else [[data.items.parse(i) for i in line.split(",") if i] for line in history]
        found = recommender.recommend(history=given, features=attributes, **how)
        names = {place: f"history {line}" for place, line in enumerate(history or [])}
        if attributes is not None:
            names = {place: f"person {place + 1}" for place in range(attributes.height)}
    found = _titled(found, data)
    if json or csv:
        print(_plain(found, json))
        return
    for person, name in names.items():
        print(f"{name}: {_one(found.filter(pl.first() == person), data)}")


def add_items(run: Path, items: str, *, out: Path | None = None) -> None:
    """Put items that came after training into a trained recommender; it lists them by what is known of them.

    Args:
        run: Folder that `palate train` or `Recommender.save` wrote.
        items: Table of the new items, in the columns of the table of items that the model learned from.
        out: Folder for the larger recommender; default: RUN itself.
    """
    target = out or run
    artifact.check_place(target)
    whole = artifact.read(run, MODELS)
    model, data = with_new_items(whole.model, whole.data, items)
    artifact.write(target, replace(whole, model=model, data=data))
    if target != run and (run / PROTOCOL).exists():
        shutil.copyfile(run / PROTOCOL, target / PROTOCOL)
    _say(data.notes[len(whole.data.notes) :])
    print(f"saved {whole.name} in {target}: {data.n_items - whole.data.n_items:,} new items, {data.n_items:,} in all")


def similar(
    run: Path,
    *,
    item: list[str],
    items: str | None = None,
    k: Annotated[int, Parameter(name="-k")] = 10,
    json: Annotated[bool, Switch] = False,
    csv: Annotated[bool, Switch] = False,
) -> None:
    """The items most like one item.

    Args:
        run: Folder that `palate train` or `Recommender.save` wrote.
        item: An item's id; may be given several times.
        items: Table of items that came after training, which may be asked about and are listed; RUN stays as it is.
        k: List length.
        json: Print JSON instead of tables.
        csv: Print CSV instead of tables.
    """
    recommender = _with_items(Recommender.load(run), items)
    data = recommender.data
    frames = []
    for one in map(data.items.parse, item):
        found = _titled(recommender.similar(one, k), data)
        frames.append(found.select(pl.lit(one).alias("of"), pl.all()))
        if not (json or csv):
            [title] = data.titles(data.items.index([one]))
            print(f"like {one} ({title}): " + (_table(found) if found.height else "nobody had it with another item"))
    if json or csv:
        print(_plain(pl.concat(frames), json))


def _with_items(recommender: Recommender, items: str | None) -> Recommender:
    """With the items of a table, where one is given."""
    if items is None:
        return recommender
    grown = recommender.add_items(items)
    _say(grown.data.notes[len(recommender.data.notes) :])
    return grown


def _say(notes: Sequence[str]) -> None:
    """What could not be used of a table, beside the answer, which may be for a program."""
    for note in notes:
        print(f"  {note}", file=sys.stderr)


def _titled(found: pl.DataFrame, data: Dataset) -> pl.DataFrame:
    """With a column of titles, where the items have any."""
    if data.item_table is None or not {"title", "name"} & set(data.item_table.columns):
        return found
    titles = pl.Series("title", [short(t) for t in data.titles(data.items.index(found["item_id"]))], pl.String)
    return found.insert_column(found.columns.index("item_id") + 1, titles)


def _one(found: pl.DataFrame, data: Dataset) -> str:
    if found.is_empty():
        return f"nothing to recommend: all {data.n_items:,} items are in the history (--include-seen lists them too)"
    return _table(found)


def _table(found: pl.DataFrame) -> str:
    columns: Sequence[str] = [c for c in ("rank", "item_id", "title", "score", "reasons") if c in found.columns]
    return f"route {found['route'][0]}\n{table(columns, found.select(columns).rows())}\n"


def _plain(found: pl.DataFrame, as_json: bool) -> str:
    if as_json:
        return json.dumps(found.to_dicts(), ensure_ascii=False, indent=1)
    return found.write_csv().rstrip()
